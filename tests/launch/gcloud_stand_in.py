"""Stands in for gcloud: records its arguments, and answers from a small model of the cloud.

    STAND_IN=FOLDER gcloud ...

FOLDER/calls gets one list of arguments a call. FOLDER/cloud holds the model, a dict: "queued" and
"vm", the states of what exists (None: nothing); "queue", the states that a new request takes, one
each time it is looked at; "workers"; "unreachable" ones; "hanging" ones; and "rules". A rule is for
calls whose arguments contain "match": the first "skip" of them it lets pass, then for "times" calls
it changes the model by "set", and with "code" prints "stderr" and exits. Commands for workers are
run here, in FOLDER/worker-N as their home; it goes, with all that runs there, when the VM does.
"""

# Only what every call needs: it is started a thousand times.
import os
import sys

FOLDER = os.environ["STAND_IN"]
NOT_FOUND = "ERROR: (gcloud) NOT_FOUND: Resource 'projects/p/locations/z/x/n' was not found"
GONE = (None, "PREEMPTED", "TERMINATED")


def flag(arguments: list[str], name: str, default: str = "") -> str:
    values = [a.partition("=")[2] for a in arguments if a.startswith(f"--{name}=")]
    return values[-1] if values else default


def homes(cloud: dict, arguments: list[str]) -> list[str]:
    worker = flag(arguments, "worker", "0")
    numbers = range(cloud["workers"]) if worker == "all" else [int(worker)]
    return [os.path.join(FOLDER, f"worker-{number}") for number in numbers]


def ssh(cloud: dict, arguments: list[str]) -> int:
    import subprocess

    # As gcloud hands it to ssh, and ssh to the other side's shell.
    command = " ".join(flag(arguments, "command").split(" "))
    code = 0
    for home in homes(cloud, arguments):
        name = os.path.basename(home)
        os.makedirs(home, exist_ok=True)
        if name in cloud.get("hanging", []):
            import time

            time.sleep(60)
        if name in cloud.get("unreachable", []):
            print("ERROR: (gcloud) Could not SSH into the instance.", file=sys.stderr)
            code = 255
            continue
        environment = {"HOME": home, "HOSTNAME": name, "PATH": os.environ["WORKER_PATH"]}
        done = subprocess.run(["bash", "-c", command], cwd=home, env=environment, check=False)
        code = done.returncode or code
    return code


def scp(cloud: dict, arguments: list[str]) -> int:
    import shutil

    source, target = [a for a in arguments[arguments.index("scp") + 1 :] if a[:2] != "--"]
    for home in homes(cloud, arguments):
        os.makedirs(home, exist_ok=True)
        if ":" in target:
            shutil.copy(source, os.path.join(home, target.partition(":")[2]))
        else:
            shutil.copy(os.path.join(home, source.partition(":")[2]), target)
    return 0


def lose_machines(cloud: dict) -> None:
    for number in range(cloud["workers"]):
        home = os.path.join(FOLDER, f"worker-{number}")
        for name in ("pid", "child"):
            path = os.path.join(home, "recallm-jax-job", name)
            if os.path.exists(path):
                os.system(f"kill -KILL -- -$(cat {path}) 2>/dev/null")
        if os.path.exists(home):
            os.rename(home, f"{home}-lost-{os.getpid()}")


def describe(state: str | None) -> int:
    if state is None:
        print(NOT_FOUND, file=sys.stderr)
        return 1
    print(state)
    return 0


def save(cloud: dict) -> None:
    path = os.path.join(FOLDER, "cloud")
    with open(path + ".partial", "w") as model:
        model.write(repr(cloud))
    os.rename(path + ".partial", path)


def follow_rules(cloud: dict, words: str) -> int | None:
    for rule in cloud["rules"]:
        if rule["match"] not in words:
            continue
        if rule.get("skip", 0) > 0:
            rule["skip"] -= 1
        elif rule.setdefault("times", 1) > 0:
            rule["times"] -= 1
            cloud.update(rule.get("set", {}))
            # The call may be ended before it is done.
            save(cloud)
            if "sleep" in rule:
                import time

                time.sleep(rule["sleep"])
            if "code" in rule:
                print(rule.get("stderr", ""), file=sys.stderr)
                return rule["code"]
    return None


def answer(cloud: dict, arguments: list[str]) -> int:
    code = follow_rules(cloud, " ".join(arguments))
    if code is not None:
        return code
    command = arguments[arguments.index("tpus") + 1 :] if "tpus" in arguments else ["", ""]
    group, verb = command[:2]
    match group, verb:
        case "queued-resources", "create":
            cloud["states"] = list(cloud["queue"])
            cloud["queued"] = cloud["states"][0]
        case "queued-resources", "describe":
            if cloud["queued"] is not None and cloud["states"]:
                cloud["queued"] = cloud["states"].pop(0)
                if cloud["queued"] == "ACTIVE":
                    cloud["vm"] = "READY"
            return describe(cloud["queued"])
        case "queued-resources", "delete":
            cloud["queued"] = cloud["vm"] = None
        case "tpu-vm", "create":
            cloud["vm"] = "READY"
        case "tpu-vm", "describe":
            if "networkEndpoints" in flag(arguments, "format") and cloud["vm"]:
                return describe(str(cloud["workers"]))
            return describe(cloud["vm"])
        case "tpu-vm", "delete":
            cloud["vm"] = None
        case "tpu-vm", "ssh":
            return ssh(cloud, arguments)
        case "tpu-vm", "scp":
            return scp(cloud, arguments)
    return 0


def main() -> int:
    arguments = sys.argv[1:]
    with open(os.path.join(FOLDER, "calls"), "a") as calls:
        calls.write(f"{arguments!r}\n")
    with open(os.path.join(FOLDER, "cloud")) as model:
        # The test's own file.
        cloud = eval(model.read())
    before = cloud["vm"]
    code = answer(cloud, arguments)
    if before not in GONE and cloud["vm"] in GONE:
        lose_machines(cloud)
    save(cloud)
    return code


if __name__ == "__main__":
    sys.exit(main())
