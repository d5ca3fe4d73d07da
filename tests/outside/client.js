// npm hubspot 2.3.14, unmodified: one request for each line of JSON on stdin, one answer a line.

const readline = require("readline");
const Hubspot = require("hubspot");

const [baseUrl, credentials] = [process.argv[2], JSON.parse(process.argv[3])];
const hubspot = new Hubspot({ baseUrl, checkLimit: false, ...credentials });

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const answer = await hubspot.apiRequest(JSON.parse(line)).then(
      (body) => ({ body: body ?? null }),
      (error) => ({ status: error.statusCode ?? null, error: error.error ?? String(error) }),
    );
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
}

main();
