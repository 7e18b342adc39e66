"""The forge's git repositories: real ones, written with dulwich, so that no git program is needed."""

from __future__ import annotations

import gzip
import io
import re
import stat
import tarfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from dulwich.errors import NotTreeError
from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

from app.demo.work import Refusal, not_found

SAMPLE = Path(__file__).with_name("sample")
SAMPLE_FILES = {
    ".github/workflows/gpu-eval.yml": "gpu-eval.yml",
    "evaluate.py": "evaluate.py.txt",  # so that this project's own linters pass it over
    "README.md": "README.md",
}
WORKFLOW = ".github/workflows/gpu-eval.yml"


def sample() -> dict[str, bytes]:
    """The files of acme/train."""
    return {path: (SAMPLE / name).read_bytes() for path, name in SAMPLE_FILES.items()}


def scripted(labels: list[str], script: str) -> dict[str, bytes]:
    """The files of a repository whose one job runs a script: what tests ask for."""
    lines = "\n".join(f"          {line}" for line in script.splitlines())
    listed = ", ".join("'" + label.replace("'", "''") + "'" for label in labels)
    text = f"name: scripted\non: [push, pull_request]\njobs:\n  script:\n    runs-on: [{listed}]\n    steps:\n"
    text += f"      - uses: actions/checkout@v4\n      - name: Script\n        run: |\n{lines}\n"
    return {WORKFLOW: text.encode()}


class Archive:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def commit(
        self, repository: str, branch: str, message: str, author: str, now: datetime, files: Mapping[str, bytes] | None = None
    ) -> str:
        """A new commit on a branch; without files, of the tree that is there. Returns its id."""
        with self._open(repository, create=True) as git:
            ref = Ref(f"refs/heads/{branch}".encode())
            parent = git.refs[ref] if git.refs.read_ref(ref) else None
            commit = Commit()
            if files is not None:
                commit.tree = _write_tree(git, files)
            elif parent is not None:
                commit.tree = _commit(git, parent).tree
            else:
                raise Refusal(422, f"{repository} has no branch {branch}")
            commit.parents = [parent] if parent else []
            commit.author = commit.committer = f"{author} <{author}@users.noreply.example>".encode()
            commit.author_time = commit.commit_time = int(now.timestamp())
            commit.author_timezone = commit.commit_timezone = 0
            commit.encoding = b"UTF-8"
            commit.message = message.encode()
            git.object_store.add_object(commit)
            git.refs[ref] = commit.id
            return commit.id.decode()

    def has(self, repository: str) -> bool:
        return (self._path(repository) / "HEAD").is_file()

    def file(self, repository: str, sha: str, path: str) -> str:
        """The text of one file in one commit. Raises Refusal (404)."""
        with self._open(repository) as git:
            try:
                _, blob_id = _tree(git, _commit(git, ObjectID(sha.encode())).tree).lookup_path(
                    git.object_store.__getitem__, path.encode()
                )
                blob = git.object_store[blob_id]
            except (KeyError, NotTreeError):
                raise not_found() from None
            if not isinstance(blob, Blob):
                raise not_found()
            return blob.data.decode("utf-8", "replace")

    def workflows(self, repository: str, sha: str) -> list[str]:
        """The workflow files of one commit, by path."""
        with self._open(repository) as git:
            try:
                _, found = _tree(git, _commit(git, ObjectID(sha.encode())).tree).lookup_path(
                    git.object_store.__getitem__, b".github/workflows"
                )
            except KeyError:
                return []
            names = [entry.path.decode() for entry in _tree(git, found).iteritems()]
            return [f".github/workflows/{name}" for name in sorted(names) if name.endswith((".yml", ".yaml"))]

    def tarball(self, repository: str, sha: str) -> bytes:
        """One commit as GitHub's tarball: one top folder, the commit's id in the archive's comment."""
        if not re.fullmatch(r"[0-9a-f]{40}", sha):
            raise not_found()
        with self._open(repository) as git:
            try:
                commit = _commit(git, ObjectID(sha.encode()))
            except KeyError:
                raise not_found() from None
            top = f"{repository.replace('/', '-')}-{sha[:7]}"
            raw = io.BytesIO()
            with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": sha}) as tar:
                _add(git, tar, top, commit.tree, commit.commit_time)
            return gzip.compress(raw.getvalue(), mtime=0)

    def _path(self, repository: str) -> Path:
        return self._folder / f"{repository}.git"

    def _open(self, repository: str, *, create: bool = False) -> Repo:
        path = self._path(repository)
        if self.has(repository):
            return Repo(str(path))
        if not create:
            raise not_found()
        path.mkdir(parents=True, exist_ok=True)
        return Repo.init_bare(str(path))


def _commit(git: Repo, sha: ObjectID) -> Commit:
    found = git.object_store[sha]
    if not isinstance(found, Commit):
        raise KeyError(sha)
    return found


def _tree(git: Repo, sha: ObjectID) -> Tree:
    found = git.object_store[sha]
    if not isinstance(found, Tree):
        raise KeyError(sha)
    return found


def _write_tree(git: Repo, files: Mapping[str, bytes]) -> ObjectID:
    tree, folders = Tree(), dict[str, dict[str, bytes]]()
    for path, content in files.items():
        first, _, rest = path.partition("/")
        if rest:
            folders.setdefault(first, {})[rest] = content
        else:
            blob = Blob.from_string(content)
            git.object_store.add_object(blob)
            tree.add(first.encode(), stat.S_IFREG | 0o644, blob.id)
    for name, inner in folders.items():
        tree.add(name.encode(), stat.S_IFDIR, _write_tree(git, inner))
    git.object_store.add_object(tree)
    return tree.id


def _add(git: Repo, tar: tarfile.TarFile, path: str, tree: ObjectID, mtime: int) -> None:
    folder = tarfile.TarInfo(path)
    folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, mtime
    tar.addfile(folder)
    for entry in _tree(git, tree).iteritems():
        name = f"{path}/{entry.path.decode()}"
        if stat.S_ISDIR(entry.mode):
            _add(git, tar, name, entry.sha, mtime)
            continue
        blob = git.object_store[entry.sha]
        content = blob.as_raw_string()
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = len(content), mtime, 0o755 if entry.mode & 0o100 else 0o644
        tar.addfile(member, io.BytesIO(content))
