"""What a [[route]] proves itself with: a password, or what gets tokens (OAuth); all its secrets from files.

All mistakes are told, each with its key.  Nothing that is told has a secret in it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from relayd.mail.route import Credentials
from relayd.password import is_out_of_sight, read_password, secret_path
from relayd.sections import RouteSection
from relayd.tokens.settings import ClientAuth, TokenRule

PASSWORD_MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")
TOKEN_MECHANISMS = ("OAUTHBEARER", "XOAUTH2")

_OAUTH = ("token_url", "client_id", "client_secret_file", "refresh_token_file", "scope")


class CredentialsReader:
    """See the module.  Relative names are beside the configuration, at `base`; `mistake` is told a key and a sentence.

    `unit` False: whoever reads is not the unit's own process and sends nothing, so that secrets in
    $CREDENTIALS_DIRECTORY, which only that has, are left out.
    """

    def __init__(self, base: Path, spool: Path, mistake: Callable[[str, str], None], *, unit: bool) -> None:
        self._base = base
        self._spool = spool
        self._mistake = mistake
        self._unit = unit

    def read(self, section: RouteSection, where: str) -> tuple[Credentials | None, TokenRule | None]:
        """Return what the route has; None for both, a mistake told if it is one, if it has nothing that can be used."""
        given = [f"oauth_{name}" for name in _OAUTH if getattr(section, f"oauth_{name}")]
        if section.oauth_client_auth is not ClientAuth.BODY:
            given.append("oauth_client_auth")
        if given and section.password_file:
            self._mistake(f"{where}.password_file", f"a route has a password or OAuth, not both: {given[0]}")
            return None, None
        if given:
            return self._with_tokens(section, where)
        return self._with_password(section, where), None

    def _with_password(self, section: RouteSection, where: str) -> Credentials | None:
        if not (section.username or section.password_file):
            if section.auth:
                self._mistake(f"{where}.auth", "is of no use without username and password_file, or oauth_token_url")
            return None
        mechanisms = self._mechanisms(section, where, PASSWORD_MECHANISMS, "password")
        if not (section.username and section.password_file):
            self._mistake(where, "username and password_file go together")
            return None
        password = self._secret(section.password_file, f"{where}.password_file")
        if password is None or self._not_a_name(section.username, where):
            return None
        return Credentials(username=section.username, password=password, mechanisms=mechanisms)

    def _with_tokens(self, section: RouteSection, where: str) -> tuple[Credentials | None, TokenRule | None]:
        mechanisms = self._mechanisms(section, where, TOKEN_MECHANISMS, "token")
        complete = self._is_complete(section, where)
        client_secret = refresh_token = ""
        refresh_token_file = None
        if section.oauth_client_secret_file:
            client_secret = self._secret(section.oauth_client_secret_file, f"{where}.oauth_client_secret_file") or ""
        if section.oauth_refresh_token_file:
            key = f"{where}.oauth_refresh_token_file"
            refresh_token = self._secret(section.oauth_refresh_token_file, key) or ""
            if refresh_token:
                refresh_token_file = secret_path(section.oauth_refresh_token_file, self._base)
        if not complete or self._not_a_name(section.username, where):
            return None, None
        rule = TokenRule(
            route=section.name,
            url=section.oauth_token_url,
            client_id=section.oauth_client_id,
            client_secret=client_secret,
            client_secret_file=section.oauth_client_secret_file,
            client_auth=section.oauth_client_auth,
            refresh_token=refresh_token,
            refresh_token_file=refresh_token_file,
            scope=section.oauth_scope,
        )
        return Credentials(username=section.username, oauth=True, mechanisms=mechanisms), rule

    def _is_complete(self, section: RouteSection, where: str) -> bool:
        missing = [key for key in ("username", "oauth_token_url", "oauth_client_id") if not getattr(section, key)]
        for key in missing:
            self._mistake(where, f"{key} is missing, which OAuth needs")
        if not (section.oauth_client_secret_file or section.oauth_refresh_token_file):
            missing.append("")
            self._mistake(where, "OAuth needs an oauth_client_secret_file, an oauth_refresh_token_file, or both")
        if section.oauth_client_auth is ClientAuth.BASIC and not section.oauth_client_secret_file:
            self._mistake(f"{where}.oauth_client_auth", '"basic" needs an oauth_client_secret_file')
        if section.oauth_token_url and not _is_safe(section.oauth_token_url):
            self._mistake(
                f"{where}.oauth_token_url", "not an https URL, without a user's name in it"
            )  # which may have a password
        return not missing

    def _mechanisms(self, section: RouteSection, where: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
        mechanisms = tuple(name.upper() for name in section.auth)
        for name in mechanisms:
            if name not in known:
                self._mistake(f"{where}.auth", f"{name!r} is none of those for a {what}: {', '.join(known)}")
        return mechanisms

    def _not_a_name(self, username: str, where: str) -> bool:
        if username.isprintable():
            return False
        self._mistake(f"{where}.username", "must not have control characters")
        return True

    def _secret(self, name: str, key: str) -> str | None:
        """Return what a file holds, None if it should not be used."""
        if not self._unit and is_out_of_sight(name):
            return ""
        try:
            return read_password(secret_path(name, self._base), self._spool)
        except (OSError, ValueError) as error:
            self._mistake(key, str(error))
            return None


def _is_safe(url: str) -> bool:
    """Whether it is an https URL, or an http one of a loopback address, as relayd/https.py demands."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.username is not None or not host:
        return False
    if parts.scheme == "http":
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False
    return parts.scheme == "https"
