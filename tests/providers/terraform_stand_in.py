"""Stands in for the Terraform program where a machine has none: the commands that the wrapper uses, real files, real locks.

It knows modules in JSON with `terraform_data`, its local-exec provisioners, and `terraform_remote_state`; expressions are
references, and one comparison. State and plan lie where Terraform has them and look alike as far as a reader may look.
Run with `python -I -S`, the words of Terraform's command line behind it.
"""
# ruff: noqa: PTH103, PTH110, PTH112, PTH118, PTH120, PTH123

from __future__ import annotations

import fcntl
import json
import os
import re
import sys

TYPE_CHECKING = False  # without the import: it runs many times, and starts fast without typing, pathlib and subprocess
if TYPE_CHECKING:
    from typing import Any

REFERENCE = re.compile(r"\$\{([^}]+)\}")
PLAN_FORMAT = "stand-in plan"


class Trouble(Exception):
    """An error diagnostic: summary and detail."""


def say(kind: str, **more: Any) -> None:
    print(json.dumps({"@level": "info", "type": kind, **more}), flush=True)


def load(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def items(table: Any) -> list[tuple[str, Any]]:
    return list(table.items())


def store(path: str, content: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


class Workspace:
    """One state, locked while it is worked on, written after every change, with the one before it beside it."""

    def __init__(self) -> None:
        self.module: dict[str, Any] = load("main.tf.json")
        backend = load("sublet_override.tf.json")["terraform"]["backend"]["local"]
        self.path = os.path.join(backend["workspace_dir"], os.environ["TF_WORKSPACE"], "terraform.tfstate")
        self.values: dict[str, Any] = {}
        if not os.path.isdir(".terraform"):
            raise Trouble("Backend initialization required", "please run init")
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.state: dict[str, Any] = {"version": 4, "serial": 0, "lineage": "", "outputs": {}, "resources": {}}
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        self.backup = os.read(self.file, 1 << 24)
        if self.backup:
            self.state = json.loads(self.backup)

    def lock(self) -> None:
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Trouble("Error acquiring the state lock", "resource temporarily unavailable") from None
        store(os.path.join(os.path.dirname(self.path), ".terraform.tfstate.lock.info"), {"ID": str(os.getpid())})

    def write(self) -> None:
        if self.backup:
            with open(f"{self.path}.backup", "wb") as file:
                file.write(self.backup)
        self.state["serial"] += 1
        self.state["lineage"] = self.state["lineage"] or os.urandom(8).hex()
        text = json.dumps(self.state).encode()
        os.pwrite(self.file, text, 0)  # through the one opening: closing another would let go of the lock
        os.ftruncate(self.file, len(text))

    def mark(self) -> list[Any]:
        return [self.state["lineage"], self.state["serial"]]

    # --- expressions

    def value(self, given: Any, itself: Any = None) -> Any:
        if isinstance(given, dict):
            return {key: self.value(each, itself) for key, each in items(given)}
        if not isinstance(given, str):
            return given
        whole = REFERENCE.fullmatch(given)
        if whole is not None:
            return self.refer(whole[1], itself)
        return REFERENCE.sub(lambda match: str(self.refer(match[1], itself)), given)

    def refer(self, text: str, itself: Any) -> Any:
        left, equals, right = text.partition(" == ")
        if equals:
            return self.refer(left, itself) == json.loads(right)
        match left.split("."):
            case ["var", name]:
                return self.values[name]
            case ["self", *path]:
                found = itself
            case ["data", "terraform_remote_state", name, *path]:
                found = self.state["resources"][f"data.{name}"]
            case ["terraform_data", name, *path]:
                found = self.state["resources"][name]
            case _:
                raise Trouble("Unsupported expression", left)
        for step in path:
            if step not in found:
                raise Trouble("Unsupported attribute", f"This object does not have an attribute named {step}.")
            found = found[step]
        return found

    # --- what a walk does

    def accept(self, path: str) -> None:
        declared = self.module["variable"]
        given = load(path)
        self.values = {name: given[name] for name in declared if name in given}
        for name in declared:
            if name not in self.values:
                raise Trouble("No value for required variable", f'The root module input variable "{name}" is not set.')

    def provision(self, name: str, at: str, itself: Any) -> None:
        for each in self.module["resource"]["terraform_data"][name].get("provisioner", ()):
            run = each["local-exec"]
            if run.get("when", "create") == at:
                environment = {**os.environ, **self.value(run["environment"], itself)}
                reader, writer = os.pipe()
                actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_DUP2, writer, 2)]
                child = os.posix_spawn("/bin/sh", ["sh", "-c", run["command"]], environment, file_actions=actions)
                os.close(writer)
                with open(reader, encoding="utf-8") as pipe:
                    output = pipe.read()
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if status:
                    detail = f"Error running command '{run['command']}': exit status {status}. Output: {output}"
                    raise Trouble("local-exec provisioner error", detail)

    def apply(self) -> None:
        """In the order of the file. A create that fails leaves its resource tainted, as Terraform does."""
        for name, body in self.module["resource"]["terraform_data"].items():
            there = self.state["resources"].get(name)
            if there is not None and not there["tainted"]:
                continue
            made = {"id": os.urandom(8).hex(), "input": self.value(body["input"]), "tainted": True}
            self.state["resources"][name] = made
            self.write()
            say("apply_start", hook={"resource": {"addr": f"terraform_data.{name}"}})
            self.provision(name, "create", made)
            made["tainted"] = False
            self.write()
        self.look()

    def look(self) -> None:
        for name, body in self.module["data"]["terraform_remote_state"].items():
            path = self.value(body["config"])["path"]
            if not os.path.exists(path):
                raise Trouble("Unable to find remote state", "No stored state was found for the given workspace.")
            outputs = {key: each["value"] for key, each in load(path)["outputs"].items()}
            self.state["resources"][f"data.{name}"] = {"outputs": outputs, "tainted": False}
        for name, body in self.module["output"].items():
            sensitive = body.get("sensitive", False)
            self.state["outputs"][name] = {"value": self.value(body["value"]), "sensitive": sensitive}
        self.write()

    def destroy(self) -> None:
        for name in reversed(self.module["resource"]["terraform_data"]):
            there = self.state["resources"].get(name)
            if there is not None:
                if not there["tainted"]:
                    self.provision(name, "destroy", there)
                del self.state["resources"][name]
                self.write()
        self.state["resources"], self.state["outputs"] = {}, {}
        self.write()

    def shown(self) -> dict[str, Any]:
        if not self.state["serial"]:
            return {"format_version": "1.0"}
        rows = [
            {"address": name, "mode": "data" if name.startswith("data.") else "managed"} for name in self.state["resources"]
        ]
        return {"format_version": "1.0", "values": {"outputs": self.state["outputs"], "root_module": {"resources": rows}}}


def option(words: list[str], name: str) -> str:
    return next((word.partition("=")[2] for word in words if word.startswith(f"-{name}=")), "")


def work(verb: str, words: list[str]) -> None:
    if verb == "version":
        print(json.dumps({"terraform_version": "0.0.0"}))
        return
    if verb == "init":
        load("main.tf.json")
        os.makedirs(".terraform", exist_ok=True)
        return
    space = Workspace()
    if verb == "show":
        print(json.dumps(space.shown()))
        return
    space.lock()
    if verb == "plan":
        space.accept(option(words, "var-file"))
        store(option(words, "out"), {"format": PLAN_FORMAT, "of": space.mark(), "values": space.values})
    elif verb == "apply" and "-refresh-only" in words:
        space.accept(option(words, "var-file"))
        space.look()
    elif verb == "apply":
        plan = load(words[-1])
        if plan["of"] != space.mark():
            raise Trouble("Saved plan is stale", "The state was changed by another operation after the plan was created.")
        space.values = plan["values"]
        space.apply()
    elif verb == "destroy":
        space.accept(option(words, "var-file"))
        if option(words, "refresh") != "false" and space.state["resources"]:
            space.look()
        space.destroy()
    else:
        raise Trouble("Unknown command", verb)
    say("change_summary")


def main() -> int:
    try:
        work(sys.argv[1], sys.argv[2:])
    except Trouble as trouble:
        say("diagnostic", diagnostic={"severity": "error", "summary": trouble.args[0], "detail": "; ".join(trouble.args[1:])})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
