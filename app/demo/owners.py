"""Accounts and repositories as GitHub writes them in JSON; the tests hold each shape against GitHub's own description."""

from __future__ import annotations

import base64
import zlib
from datetime import UTC, datetime
from typing import Any

from app.demo.nouns import Account, Book, Repository

Json = dict[str, Any]

REPOSITORY_ADDRESSES = {
    "archive_url": "/{archive_format}{/ref}",
    "assignees_url": "/assignees{/user}",
    "blobs_url": "/git/blobs{/sha}",
    "branches_url": "/branches{/branch}",
    "collaborators_url": "/collaborators{/collaborator}",
    "comments_url": "/comments{/number}",
    "commits_url": "/commits{/sha}",
    "compare_url": "/compare/{base}...{head}",
    "contents_url": "/contents/{+path}",
    "contributors_url": "/contributors",
    "deployments_url": "/deployments",
    "downloads_url": "/downloads",
    "events_url": "/events",
    "forks_url": "/forks",
    "git_commits_url": "/git/commits{/sha}",
    "git_refs_url": "/git/refs{/sha}",
    "git_tags_url": "/git/tags{/sha}",
    "hooks_url": "/hooks",
    "issue_comment_url": "/issues/comments{/number}",
    "issue_events_url": "/issues/events{/number}",
    "issues_url": "/issues{/number}",
    "keys_url": "/keys{/key_id}",
    "labels_url": "/labels{/name}",
    "languages_url": "/languages",
    "merges_url": "/merges",
    "milestones_url": "/milestones{/number}",
    "notifications_url": "/notifications{?since,all,participating}",
    "pulls_url": "/pulls{/number}",
    "releases_url": "/releases{/id}",
    "stargazers_url": "/stargazers",
    "statuses_url": "/statuses/{sha}",
    "subscribers_url": "/subscribers",
    "subscription_url": "/subscription",
    "tags_url": "/tags",
    "teams_url": "/teams",
    "trees_url": "/git/trees{/sha}",
}
USER_ADDRESSES = {
    "followers_url": "/followers",
    "following_url": "/following{/other_user}",
    "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}",
    "subscriptions_url": "/subscriptions",
    "organizations_url": "/orgs",
    "repos_url": "/repos",
    "events_url": "/events{/privacy}",
    "received_events_url": "/received_events",
}


def stamp(time: datetime | None) -> str | None:
    """RFC 3339 in UTC, whole seconds, as GitHub writes it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time else None


def node_id(kind: str, number: int) -> str:
    return base64.b64encode(f"{len(kind):03d}:{kind}{number}".encode()).decode()


def api(book: Book) -> str:
    return f"{book.origin}/api/v3"


def user(book: Book, login: str) -> Json:
    account = book.accounts.get(login)
    number = account.id if account else 1_000_000 + zlib.crc32(login.encode())
    url = f"{api(book)}/users/{login}"
    return {
        "login": login,
        "id": number,
        "node_id": node_id(account.kind if account else "User", number),
        "avatar_url": f"{book.origin}/avatars/{login}",
        "gravatar_id": "",
        "url": url,
        "html_url": f"{book.origin}/{login}",
        **{name: url + path for name, path in USER_ADDRESSES.items()},
        "type": account.kind if account else "User",
        "user_view_type": "public",
        "site_admin": False,
    }


def organization(book: Book, account: Account) -> Json:
    url = f"{api(book)}/orgs/{account.login}"
    return {
        "login": account.login,
        "id": account.id,
        "node_id": node_id("Organization", account.id),
        "url": url,
        "repos_url": f"{url}/repos",
        "events_url": f"{url}/events",
        "hooks_url": f"{url}/hooks",
        "issues_url": f"{url}/issues",
        "members_url": f"{url}/members{{/member}}",
        "public_members_url": f"{url}/public_members{{/member}}",
        "avatar_url": f"{book.origin}/avatars/{account.login}",
        "description": "",
    }


def minimal_repository(book: Book, full_name: str) -> Json:
    """As it stands inside runs: without counts and switches."""
    repository = book.repositories[full_name]
    url = f"{api(book)}/repos/{full_name}"
    return {
        "id": repository.id,
        "node_id": node_id("Repository", repository.id),
        "name": repository.name,
        "full_name": full_name,
        "private": repository.private,
        "owner": user(book, repository.owner),
        "html_url": f"{book.origin}/{full_name}",
        "description": None,
        "fork": bool(repository.parent),
        "url": url,
        **{name: url + path for name, path in REPOSITORY_ADDRESSES.items()},
    }


def repository(book: Book, full_name: str) -> Json:
    found = book.repositories[full_name]
    git = f"{full_name}.git"
    return minimal_repository(book, full_name) | {
        "created_at": stamp(found.created_at),
        "updated_at": stamp(found.pushed_at or found.created_at),
        "pushed_at": stamp(found.pushed_at or found.created_at),
        "git_url": f"git://{book.origin.partition('://')[2]}/{git}",
        "ssh_url": f"git@127.0.0.1:{git}",
        "clone_url": f"{book.origin}/{git}",
        "svn_url": f"{book.origin}/{full_name}",
        "homepage": None,
        "size": 4,
        "stargazers_count": 0,
        "watchers_count": 0,
        "language": "Python",
        "has_issues": True,
        "has_projects": False,
        "has_downloads": True,
        "has_wiki": False,
        "has_pages": False,
        "has_discussions": False,
        "forks_count": sum(1 for other in book.repositories.values() if other.parent == full_name),
        "mirror_url": None,
        "archived": False,
        "disabled": False,
        "open_issues_count": 0,
        "license": None,
        "allow_forking": True,
        "is_template": False,
        "web_commit_signoff_required": False,
        "topics": [],
        "visibility": "private" if found.private else "public",
        "forks": 0,
        "open_issues": 0,
        "watchers": 0,
        "default_branch": found.default_branch,
        "custom_properties": {},
    }


def source(book: Book, found: Repository, sender: str) -> Json:
    """What every delivery says of where it comes from."""
    account = book.accounts[found.owner]
    return {
        "repository": repository(book, found.full_name),
        **({"organization": organization(book, account)} if account.kind == "Organization" else {}),
        "sender": user(book, sender),
        "installation": {"id": account.installation_id, "node_id": node_id("IntegrationInstallation", account.installation_id)},
    }
