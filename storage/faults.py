"""Faults of gs:// described in one line, whichever client library raised the error."""

import re
from collections.abc import Sequence
from urllib.parse import unquote

CREDENTIALS, PERMISSION, MISSING, NETWORK = "credentials", "permission", "missing", "network"
_SAID = {
    CREDENTIALS: (
        "needs credentials; log in with gcloud auth application-default login, or name a service "
        "account's file in GOOGLE_APPLICATION_CREDENTIALS"
    ),
    PERMISSION: (
        "can't be used by this account; give it roles/storage.objectUser and "
        "roles/storage.legacyBucketReader on the bucket, or name another path"
    ),
    MISSING: "does not exist; check the name, and create the bucket if it is missing",
    NETWORK: "can't be reached; when the network is back, start the same command again",
}
_BY_CODE = {401: CREDENTIALS, 403: PERMISSION, 404: MISSING, 408: NETWORK, 429: NETWORK}
# Packages whose errors come from gs:// or from the connection to it.
_PACKAGES = (
    "gcsfs.",
    "aiohttp.",
    "requests.",
    "fsspec.exceptions",
    "google.auth.",
    "google.api_core.",
    "google.cloud.",
)
# Faults by a word in the name of the error's class, for errors without a status code.
_BY_NAME = {
    "Credentials": CREDENTIALS,
    "Refresh": CREDENTIALS,
    "Forbidden": PERMISSION,
    "Unauthorized": CREDENTIALS,
    "NotFound": MISSING,
}
# Faults by TensorStore's status words. NOT_FOUND is not here: it means a damaged checkpoint.
_BY_WORD = {
    "UNAUTHENTICATED": CREDENTIALS,
    "PERMISSION_DENIED": PERMISSION,
    "UNAVAILABLE": NETWORK,
    "DEADLINE_EXCEEDED": NETWORK,
    "ABORTED": NETWORK,
}
_URL = re.compile(r"gs://[^\s\"'`;,)]+")
# A path of the API: …/b/BUCKET/o/OBJECT, the object quoted, or given after name=.
_API = re.compile(r"\bb/(?P<bucket>[a-z0-9][-_.a-z0-9]+)(?:/o(?:/(?P<key>[^\s?&]+))?)?")


def kind(error: BaseException) -> str | None:
    """Return which of the four faults an error is; None if it does not come from gs://."""
    text = str(error)
    code = getattr(error, "code", getattr(error, "status", None))
    if type(error).__module__.startswith(_PACKAGES):
        if isinstance(code, int | str) and str(code).isdecimal():
            return _BY_CODE.get(int(code), NETWORK if int(code) >= 500 else None)
        for word, found in _BY_NAME.items():
            if word in type(error).__name__:
                return found
        return NETWORK
    if isinstance(error, OSError) and error.errno is None:
        if text.startswith("Forbidden: "):
            return PERMISSION
        if isinstance(error, FileNotFoundError) and _API.search(text):
            return MISSING
    if "gs://" in text or "storage.googleapis.com" in text:
        for word, found in _BY_WORD.items():
            if word in text:
                return found
    return None


def describe(error: BaseException, argv: Sequence[str] = ()) -> str | None:
    """Return one line that names the path and the remedy; None if gs:// is not at fault.

    Args:
      argv: the job's arguments. Their gs:// paths are named if the error itself names none.
    """
    found = kind(error)
    if found is None:
        return None
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{_path(str(error), argv)} {_SAID[found]} ({reason})"


def _path(text: str, argv: Sequence[str]) -> str:
    if match := _URL.search(text):
        return match[0]
    if match := _API.search(text):
        return "gs://" + "/".join(filter(None, (match["bucket"], unquote(match["key"] or ""))))
    found = [match[0] for argument in argv for match in _URL.finditer(argument)]
    return " or ".join(dict.fromkeys(found)) or "gs://"
