"""The error answers of the API. It knows their shape and nothing of what went wrong."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request, and where: `messages[3].externalObjectId`."""

    message: str
    where: str | None = None


class RefusalError(Exception):
    """The request is refused with an HTTP status and HubSpot's error body."""

    def __init__(
        self, status: int, message: str, category: str, problems: tuple[Problem, ...] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.category = category
        self.problems = problems


def invalid(message: str, *problems: Problem) -> RefusalError:
    """A 400: the request can never succeed as it is."""
    return RefusalError(400, message, "VALIDATION_ERROR", problems)


def not_found(message: str) -> RefusalError:
    """A 404: the thing named in the path does not exist."""
    return RefusalError(404, message, "OBJECT_NOT_FOUND")


def unauthorized(message: str) -> RefusalError:
    """A 401: credentials are missing or wrong."""
    return RefusalError(401, message, "INVALID_AUTHENTICATION")


def forbidden(message: str, category: str = "FORBIDDEN") -> RefusalError:
    """A 403: the caller is known, but this is not for it."""
    return RefusalError(403, message, category)


def conflict(message: str) -> RefusalError:
    """A 409: not in the state that the thing is in."""
    return RefusalError(409, message, "CONFLICT")


def error_body(refusal: RefusalError) -> dict[str, Any]:
    """The body that HubSpot has sent since 2020: every field but `errors` is always there."""
    body: dict[str, Any] = {
        "status": "error",
        "message": refusal.message,
        "correlationId": str(uuid.uuid4()),
        "category": refusal.category,
    }
    if refusal.problems:
        body["errors"] = [
            {"message": problem.message}
            | ({"in": problem.where} if problem.where is not None else {})
            for problem in refusal.problems
        ]
    return body
