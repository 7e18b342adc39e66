"""The calls of Terraform that a create, a refresh and a destroy are made of, and what they see."""

import os
from collections.abc import Mapping
from pathlib import Path

from providers import terraform_runs
from providers.terraform_keeper import write
from providers.terraform_leases import Leases
from providers.terraform_modules import Modules
from providers.terraform_runs import Step, Verb, next_folder, read
from providers.terraform_settings import TerraformSettings

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PLAIN = ("-input=false", "-no-color", "-json", "-lock-timeout=30s")


def environment_of(root: Path, settings: TerraformSettings) -> dict[str, str]:
    """A clean one: of the service's own, Terraform sees what `pass_environment` names."""
    passed = {name: os.environ[name] for name in settings.pass_environment if name in os.environ}
    return {
        "PATH": SYSTEM_PATH,
        "HOME": str(root),
        "LANG": "C.UTF-8",
        "CHECKPOINT_DISABLE": "1",  # it asks nobody for newer versions
        "TF_PLUGIN_CACHE_DIR": str(root / "plugins"),
        **passed,
        **settings.environment,
        **{name: secret.reveal() for name, secret in settings.secrets.items()},
        "TF_IN_AUTOMATION": "1",
        "TF_INPUT": "0",
    }


class Steps:
    """Starts runs. Only under the lock of the leases."""

    def __init__(self, leases: Leases, modules: Modules, settings: TerraformSettings, environment: Mapping[str, str]) -> None:
        self._leases, self._modules, self._settings, self._environment = leases, modules, settings, environment

    def start(self, tag: str, verb: Verb) -> None:
        """Begin a run on a lease that has none at work. Raises `Unclear` or `Refused` if its module cannot be prepared."""
        lease = self._leases.folder / tag
        record = self._leases.record(tag)
        version = self._modules.of("" if record is None else record.module)
        binary = self._modules.binary
        run = next_folder(lease, verb)
        late = self._settings.apply_timeout.total_seconds()
        inputs = f"-var-file={lease / 'order.tfvars.json'}"
        match verb:
            case Verb.CREATE:
                steps = self._create(binary, lease, run, inputs)
            case Verb.REFRESH:
                command = [binary, "apply", "-refresh-only", "-auto-approve", *PLAIN, inputs]
                steps = [
                    Step("refresh", command, self._settings.plan_timeout.total_seconds()),
                    self._show(lease, run, "refresh"),
                ]
            case Verb.DESTROY:
                command = [binary, "destroy", "-auto-approve", *PLAIN, inputs]
                steps = [
                    Step("destroy", command, late),
                    # what the module reads first may have gone with the machine, and would keep it from being destroyed
                    Step("destroy-unread", [*command, "-refresh=false"], late, when="failed", of="destroy"),
                    self._show(lease, run, "destroy"),
                ]
        environment = {**self._environment, "TF_WORKSPACE": tag}
        grace = self._settings.grace.total_seconds()
        terraform_runs.start(run, steps, environment, module=version.folder, grace=grace)

    def _create(self, binary: str, lease: Path, run: Path, inputs: str) -> list[Step]:
        """A plan fits one state only: it is used again after a crash if no apply has begun, else there is a new one."""
        plan, draft = lease / "lease.plan", run / "lease.plan"
        command = [binary, "plan", *PLAIN, inputs, f"-out={draft}"]
        first = Step("plan", command, self._settings.plan_timeout.total_seconds(), keep=(str(draft), str(plan)))
        apply = Step(
            "apply",
            [binary, "apply", *PLAIN, str(plan)],
            self._settings.apply_timeout.total_seconds(),
            mark=str(lease / "apply.begun"),
        )
        planned = plan.exists() and not (lease / "apply.begun").exists()
        return [*([] if planned else [first]), apply, self._show(lease, run, "apply")]

    def _show(self, lease: Path, run: Path, of: str) -> Step:
        command = [self._modules.binary, "show", "-no-color", "-json"]
        seconds = self._settings.plan_timeout.total_seconds()
        return Step("show", command, seconds, when="always", of=of, keep=(str(run / "show.out"), str(lease / "shown.json")))

    @property
    def cut_off(self) -> Path:
        """The tags whose create was killed before they were destroyed: what Terraform was just asking for, no state knows."""
        return self._leases.folder.parent / "cut-off.json"

    def note_cut_off(self, tag: str, at: str) -> None:
        write(str(self.cut_off), {**read(self.cut_off), tag: at})
