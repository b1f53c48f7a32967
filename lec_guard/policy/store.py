"""The policies of all tenants, resolved from a folder of YAML files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lec_guard.errors import PolicyError
from lec_guard.policy.document import Document, read_document
from lec_guard.policy.schema import NAME, PolicyFile, Rule, nearest, parse_policy

BUILTIN = Path(__file__).parent / "default.yaml"
_BUILTIN_NAME = "builtin"
_DEFAULT_NAME = "default"
_MESSAGE = "This request was stopped by a policy."


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy with everything that it inherits.

    Attributes:
        name: The file's name without its ending.
        version: A hash over rules and messages; equal for policies that decide alike.
        rules: All rules, inherited ones first.
        message: What to tell a user on a block where the rule has no message of its own.
        file: Where it was read from.
    """

    name: str
    version: str
    rules: tuple[Rule, ...]
    message: str
    file: Path

    def check_heads(self, labels: Mapping[str, tuple[str, ...]]) -> None:
        """Make sure that every rule reads something the detector gives.

        Args:
            labels: Head name -> labels, of the detector.

        Raises:
            PolicyError: If a rule names a head or label that the detector does not have.
        """
        for rule in self.rules:
            if rule.head not in labels:
                raise PolicyError(
                    f"{self.file}: rule {rule.name!r}: the detector has no head {rule.head!r}"
                    f"{nearest(rule.head, list(labels))}"
                )
            for label in rule.labels or ():
                if label not in labels[rule.head]:
                    raise PolicyError(
                        f"{self.file}: rule {rule.name!r}: head {rule.head!r} has no label {label!r}"
                        f"{nearest(label, list(labels[rule.head]))}"
                    )


class PolicyStore:
    """Which policy a tenant gets.

    Args:
        default: The policy of steps without a tenant.
        tenants: Tenant -> policy.
        unknown: The policy of tenants without a file; None refuses them.
    """

    def __init__(self, default: Policy, tenants: Mapping[str, Policy], unknown: Policy | None) -> None:
        self._default = default
        self._tenants = dict(tenants)
        self._unknown = unknown

    @classmethod
    def load(cls, path: str | Path | None = None) -> PolicyStore:
        """Read and check all policies.

        Args:
            path: A folder with `default.yaml` and perhaps `tenants/*.yaml`; or one policy file, which
                is then the default; or None for the packaged default.

        Returns:
            The store.

        Raises:
            PolicyError: If a file is missing or wrong; every wrong line of a file is told.
        """
        if path is None:
            path = BUILTIN
        path = Path(path)
        folder = _Folder(path)
        default = folder.policy(folder.default_name)
        tenants = {name: folder.policy(name) for name in folder.tenants}
        unknown_tenant = folder.files[folder.default_name].unknown_tenant
        unknown = None
        if unknown_tenant == _DEFAULT_NAME:
            unknown = default
        elif unknown_tenant is not None:
            if unknown_tenant not in tenants:
                raise PolicyError(
                    f"{folder.where(folder.default_name, 'unknown_tenant')}: no tenant {unknown_tenant!r}"
                    f"{nearest(unknown_tenant, [_DEFAULT_NAME, *tenants])}"
                )
            unknown = tenants[unknown_tenant]
        return cls(default, tenants, unknown)

    def get(self, tenant: str | None) -> Policy:
        """The policy of a tenant.

        Args:
            tenant: The tenant; None for none.

        Returns:
            Its policy; the default one where there is no tenant.

        Raises:
            PolicyError: If the tenant is unknown and `default.yaml` does not say what it gets, or the
                name could not be a tenant's.
        """
        if tenant is None:
            return self._default
        if not isinstance(tenant, str) or not re.fullmatch(NAME, tenant):
            raise PolicyError(f"{tenant!r} can't be the name of a tenant: letters, digits, '.', '_' and '-' only")
        policy = self._tenants.get(tenant, self._unknown)
        if policy is None:
            raise PolicyError(
                f"unknown tenant {tenant!r}: add tenants/{tenant}.yaml, "
                "or say in default.yaml what such tenants get (unknown_tenant: default)"
            )
        return policy

    def policies(self) -> tuple[Policy, ...]:
        """Every policy of the store, the default one first."""
        return (self._default, *self._tenants.values())


class _Folder:
    """The files of one `load`, and how they inherit from each other."""

    def __init__(self, path: Path) -> None:
        self._documents: dict[str, Document] = {}
        self.files: dict[str, PolicyFile] = {}
        self.tenants: list[str] = []
        if path.is_dir():
            self.default_name = _DEFAULT_NAME
            bases = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
            if not any(file.stem == _DEFAULT_NAME for file in bases):
                raise PolicyError(f"{path}: no default.yaml here; it is what steps without a tenant get")
            for file in bases:
                self._add(file)
            tenants = path / "tenants"
            for file in sorted(tenants.iterdir()) if tenants.is_dir() else ():
                policy = file.suffix in (".yaml", ".yml") and file.is_file()
                if not policy and file.name.startswith("."):
                    continue
                if not policy:
                    raise PolicyError(f"{file}: not a policy; tenants/ holds one .yaml file a tenant and nothing else")
                self._add(file)
                self.tenants.append(file.stem)
        elif path.is_file():
            self.default_name = path.stem
            self._add(path)
        else:
            raise PolicyError(f"{path}: no such policy file or folder")
        if BUILTIN not in [document.file for document in self._documents.values()]:
            self._add(BUILTIN, _BUILTIN_NAME)

    def _add(self, file: Path, name: str | None = None) -> None:
        if name is None:
            name = file.stem
            if name == _BUILTIN_NAME:
                raise PolicyError(f"{file}: the name {name!r} is taken by the packaged policy; rename the file")
        if not re.fullmatch(NAME, name):
            raise PolicyError(f"{file}: a policy's file name may have letters, digits, '.', '_' and '-' only")
        if name in self._documents:
            raise PolicyError(f"{file}: {self._documents[name].file} has the same name; rename one of them")
        document = read_document(file)
        self._documents[name] = document
        self.files[name] = parse_policy(document)
        if self.files[name].unknown_tenant is not None and name != self.default_name:
            raise PolicyError(f"{self.where(name, 'unknown_tenant')}: only default.yaml says what unknown tenants get")

    def where(self, name: str, key: str) -> str:
        """File and line of a key."""
        document = self._documents[name]
        return f"{document.file}:{document.line((key,))}"

    def policy(self, name: str) -> Policy:
        """Follow `extends` down to its root, then lay each file's rules over those it inherits."""
        chain = [name]
        while (parent := self.files[chain[-1]].extends) is not None:
            where = self.where(chain[-1], "extends")
            if parent in chain:
                raise PolicyError(f"{where}: policies inherit in a circle: {' -> '.join([*chain, parent])}")
            if parent not in self.files:
                raise PolicyError(f"{where}: no policy {parent!r}{nearest(parent, list(self.files))}")
            chain.append(parent)
        rules: dict[str, Rule] = {}
        message = _MESSAGE
        for link in reversed(chain):
            rules.update({rule.name: rule for rule in self.files[link].rules})
            message = self.files[link].message or message
        file = self._documents[name].file
        if not rules:
            raise PolicyError(f"{file}: a policy without any rule lets everything pass; add one, or 'extends: default'")
        content = {"message": message, "rules": [rule.model_dump(mode="json") for rule in rules.values()]}
        version = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return Policy(name=name, version=version, rules=tuple(rules.values()), message=message, file=file)
