"""Write and delete a file in a folder, local or gs://, as a job will.

The exit code says what failed: 1, the job may not write there; 3, the bucket does not exist; 75,
the storage can't be reached.

python launch/check_workdir.py gs://BUCKET/FOLDER
"""

import os
import socket
import sys

import fsspec

from storage import faults

# Unless this is set, gcsfs asks over gRPC, at each file, what kind of bucket this is.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def main() -> int:
    """Return the exit code, and write one line on stderr if it is not 0."""
    folder = sys.argv[1].rstrip("/")
    # Workers check at the same time.
    path = f"{folder}/.write_check.{socket.gethostname()}.{os.getpid()}"
    try:
        files, inner = fsspec.core.url_to_fs(path)
        if folder.startswith("gs://"):
            # Orbax asks for the bucket itself, which takes a permission of its own.
            files.call("GET", "b/{}", inner.partition("/")[0])
        files.makedirs(inner.rpartition("/")[0], exist_ok=True)
        files.pipe_file(inner, b"")
        files.rm_file(inner)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 3
    # After any other error of the storage's library the job could not write there either.
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 75 if faults.kind(error) == faults.NETWORK else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
