-- The request is made once; what is measured is HTTP on this machine, with bodies of 200 messages.
local file = assert(io.open(os.getenv("BODY"), "rb"))
wrk.method = "PUT"
wrk.path = "/extensions/ecomm/v2/sync/messages"
wrk.headers["Content-Type"] = "application/json"
wrk.body = file:read("*a")
file:close()
