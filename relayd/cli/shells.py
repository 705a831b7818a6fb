"""Completion scripts for bash, zsh and fish, written from a table of what may follow which words.

Pure.  A script starts no relayd, and needs no configuration: to press a key costs nothing, whoever does it.  Names of
routes are read from the configuration by awk, where it can be read; they are never expanded by a shell.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from relayd.cli.where import CONFIG_VARIABLE, DEFAULT_CONFIG

FILES = "<file>"  # in place of words: names of files
ROUTES = "<route>"  # names of routes


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What may follow a command: words, and after options that take a value, what that may be (empty: unknown)."""

    commands: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    values: Mapping[str, tuple[str, ...]]


Places = Mapping[str, Place]  # by the words of the command: "queue list"; empty: relayd itself

_ROUTES = r"""awk -F'"' '/^[ \t]*\[/ {r = /^[ \t]*\[\[route\]\]/} r && /^[ \t]*name[ \t]*=/ {print $2}'"""

_COMMON = """\
# Completion of relayd's command line, as `relayd completion SHELL` prints it.  It starts no relayd.
_relayd_walk() {{
    for each in "$@"; do
        if [ "$each" = "=" ]; then continue; fi
        if [ -n "$skip" ]; then
            if [ "$skip" = --config ]; then config=$each; fi
            skip=
            continue
        fi
        case "$place:$each" in
        {valued}) skip=$each ;;
        {commands}) place="${{place:+$place }}$each" ;;
        esac
    done
}}
_relayd_offer() {{
    case "$place:$skip" in
{offers}
    esac
}}
"""

_BASH = """\
_relayd() {
    local place= skip= each word=${COMP_WORDS[COMP_CWORD]} config=${@VARIABLE@:-@CONFIG@}
    COMPREPLY=()
    [ "$word" = "=" ] && word=
    _relayd_walk "${COMP_WORDS[@]:1:COMP_CWORD-1}"
    while IFS= read -r each; do
        if [ "$each" = "<file>" ]; then
            compopt -o default 2>/dev/null
        elif [[ $each == "$word"* ]]; then
            COMPREPLY+=("$(printf %q "$each")")
        fi
    done < <(_relayd_offer)
}
complete -F _relayd relayd
"""

_ZSH = """\
_relayd() {
    local place= skip= each config=${@VARIABLE@:-@CONFIG@}
    local -a offered
    _relayd_walk "${(@)words[2,CURRENT-1]}"
    offered=("${(@f)$(_relayd_offer)}")
    if [[ $offered[1] == "<file>" ]]; then
        _files
    else
        compadd -- $offered
    fi
}
if [ "$funcstack[1]" = "_relayd" ]; then _relayd; else compdef _relayd relayd; fi
"""

_FISH = """\
# Completion of relayd's command line, as `relayd completion fish` prints it.  It starts no relayd.
function __relayd_offer
    set -l place ''
    set -l skip ''
    set -l config @CONFIG@
    if set -q @VARIABLE@; set config $@VARIABLE@; end
    set -l before (commandline -opc)
    for each in $before[2..-1]
        if test -n "$skip"
            if test "$skip" = --config; set config $each; end
            set skip ''
            continue
        end
        switch "$place:$each"
            case @VALUED@
                set skip $each
            case @COMMANDS@
                set place (string trim "$place $each")
        end
    end
    switch "$place:$skip"
@OFFERS@
    end
end
complete --command relayd --no-files --arguments '(__relayd_offer)'
"""


def bash(places: Places) -> str:
    """Return the script for bash."""
    return _posix(places) + _placed(_BASH)


def zsh(places: Places) -> str:
    """Return the script for zsh: to be sourced, or a file named _relayd in its path of functions."""
    return f"#compdef relayd\n{_posix(places)}{_placed(_ZSH)}"


def fish(places: Places) -> str:
    """Return the script for fish."""
    offers = "\n".join(f"        case {where}\n            {_fish_offer(words)}" for where, words in _offers(places))
    script = _placed(_FISH).replace("@VALUED@", " ".join(_valued(places)))
    return script.replace("@COMMANDS@", " ".join(_commands(places))).replace("@OFFERS@", offers)


SHELLS: Mapping[str, Callable[[Places], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


def _posix(places: Places) -> str:
    offers = "\n".join(f"    {where}) {_posix_offer(words)} ;;" for where, words in _offers(places))
    return _COMMON.format(valued="|".join(_valued(places)), commands="|".join(_commands(places)), offers=offers)


def _placed(template: str) -> str:
    return template.replace("@VARIABLE@", CONFIG_VARIABLE).replace("@CONFIG@", str(DEFAULT_CONFIG))


def _valued(places: Places) -> Iterator[str]:
    return (shlex.quote(f"{path}:{option}") for path, place in places.items() for option in place.values)


def _commands(places: Places) -> Iterator[str]:
    return (shlex.quote(f"{path}:{command}") for path, place in places.items() for command in place.commands)


def _offers(places: Places) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield what may stand where: a command and an option that waits for its value, or none."""
    for path, place in places.items():
        yield shlex.quote(f"{path}:"), (*place.commands, *place.words)
        for option, values in place.values.items():
            if values:
                yield shlex.quote(f"{path}:{option}"), values


def _posix_offer(words: Sequence[str]) -> str:
    return f'{_ROUTES} "$config" 2>/dev/null' if ROUTES in words else f"printf '%s\\n' {_quoted(words)}"


def _fish_offer(words: Sequence[str]) -> str:
    if FILES in words:
        return "__fish_complete_path (commandline -ct)"
    return f'{_ROUTES} "$config" 2>/dev/null' if ROUTES in words else f"printf '%s\\n' {_quoted(words)}"


def _quoted(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
