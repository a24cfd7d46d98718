"""`stemwire plugin`: the plugin for DAWs, its local server, and named servers."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemwire.bridge.plugin.bundle import (
    BUNDLE,
    copy_bundle,
    fingerprint,
    plugin_bundle,
    vst3_folder,
)
from stemwire.bridge.plugin.settings import (
    NAME_LETTERS,
    RESERVED,
    SERVERS,
    LocalServer,
    NamedServer,
    PluginSettings,
    config_file,
    log_folder,
    runtime_folder,
)
from stemwire.errors import ConfigError, OutputError, StemwireError
from stemwire.extras import BRIDGE, extra

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

IDLE_EXIT_S = 600.0
FALLBACK = "ws://127.0.0.1:8765"  # where the plugin looks if no server has published its address


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `plugin` to the `stemwire` command."""
    plugin = commands.add_parser(
        "plugin",
        help="install and check the plugin for DAWs",
        description="A VST3 plugin that sends a track to a Stemwire server and plays the stems it "
        "returns. It starts a server of its own on this computer, or uses one that you name.",
    )
    parts = plugin.add_subparsers(metavar="PART", required=True)

    install = parts.add_parser("install", parents=[common], help="install it where DAWs look")
    install.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="BUNDLE",
        help=f"a {BUNDLE} that you built (the bundled one)",
    )
    install.add_argument(
        "--autostart",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether plugins may start a server (yes)",
    )
    install.set_defaults(run=_install)

    status = parts.add_parser(
        "status", parents=[common], help="show what is installed and which servers answer"
    )
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)

    serve = parts.add_parser(
        "serve",
        parents=[common],
        help="run the local server that plugins otherwise start themselves",
        description="Serve on loopback, on a free port, with a token; port and token are written "
        "to a file that only you can read and where your plugins look. There is one such server "
        "per user: a second one prints the address of the first and exits.",
    )
    serve.add_argument(
        "--idle-exit",
        type=float,
        default=IDLE_EXIT_S,
        metavar="S",
        help="seconds without a plugin until the server exits, 0: never (600)",
    )
    serve.add_argument("--config", type=Path, metavar="FILE", help="as for 'stemwire serve'")
    serve.add_argument(
        "--preset",
        dest="presets",
        action="append",
        metavar="PRESET",
        help="preset that plugins may use; repeatable (standard and low)",
    )
    serve.add_argument("--backend", help="auto, native, onnx, torch or cuda (auto)")
    serve.add_argument(
        "--threads", type=int, help="worker threads; 0 is one per core, one for a GPU (0)"
    )
    serve.set_defaults(run=_serve)

    server = parts.add_parser("server", help="manage named servers on other machines")
    kinds = server.add_subparsers(metavar="WHAT", required=True)
    add = kinds.add_parser("add", parents=[common], help="add a server to the plugin's list")
    add.add_argument(
        "name", metavar="NAME", help="name in the list; replaces a server of that name"
    )
    add.add_argument("url", metavar="URL", help="ws://HOST:PORT")
    add.add_argument(
        "--token-file",
        type=Path,
        metavar="F",
        help="file whose first token to send (default: STEMWIRE_TOKEN)",
    )
    add.set_defaults(run=_add)
    remove = kinds.add_parser("remove", parents=[common], help="remove a server from the list")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(run=_remove)

    uninstall = parts.add_parser(
        "uninstall", parents=[common], help="remove the plugin and its settings"
    )
    uninstall.set_defaults(run=_uninstall)


def _installed() -> Path:
    return vst3_folder() / BUNDLE


def _settings() -> PluginSettings:
    return PluginSettings.load(config_file()) or PluginSettings(command=_command())


def _command() -> tuple[str, ...]:
    """Command with which a plugin starts a server; -P, for the current folder is the host's."""
    if not sys.executable:
        raise ConfigError("the path of this Python is unknown; run it by its full path")
    return (sys.executable, "-P", "-m", "stemwire.cli", "plugin", "serve")


def _install(args: argparse.Namespace) -> int:
    source = args.source if args.source is not None else plugin_bundle()
    settings = replace(
        _settings(), command=_command()
    )  # raises for a damaged file, before anything is copied
    if args.autostart is not None:
        settings = replace(settings, autostart=args.autostart)
    copy_bundle(source, _installed())
    settings.save(config_file())
    print(f"{_installed()}: installed; have your DAW look for new plugins")
    print(f"{config_file()}: plugins may{'' if settings.autostart else ' not'} start a server")
    try:
        _require_network()
    except ConfigError as error:
        print(f"stemwire: {error}; until then only remote servers can be used", file=sys.stderr)
    return 0


def _uninstall(args: argparse.Namespace) -> int:
    removed = False
    for path in (_installed(), config_file()):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(f"{path}: cannot be removed ({error.strerror})") from error
        print(f"{path}: removed")
        removed = True
    if not removed:
        print("nothing was installed")
    return 0


def _require_network() -> None:
    for package in ("msgspec", "websockets"):
        extra(package, "the plugin's server", BRIDGE)


def _serve(args: argparse.Namespace) -> int:
    _require_network()
    from stemwire.bridge.plugin.server import serve_plugins
    from stemwire.bridge.server.config import load_config

    flags = {name: getattr(args, name) for name in ("presets", "backend", "threads")}

    def ready(url: str, ours: bool) -> None:
        prefix = "serving your plugins at" if ours else "your plugins are served already, at"
        print(f"stemwire: {prefix} {url}", file=sys.stderr, flush=True)

    serve_plugins(load_config(args.config, flags), args.idle_exit, ready)
    return 0


# --- servers by name


def _add(args: argparse.Namespace) -> int:
    if args.name in RESERVED or not re.fullmatch(rf"[^\s\W].{{0,{NAME_LETTERS - 1}}}", args.name):
        raise ConfigError(
            f"{args.name!r} is not a valid name; expected 1 to {NAME_LETTERS} characters, the "
            f"first a letter or digit, and not {RESERVED[0]!r}"
        )
    _require_network()
    from stemwire.bridge.client.address import Address
    from stemwire.bridge.server.config import read_tokens

    url = Address.parse(args.url).url.removesuffix("/stream")
    if not url.startswith("ws://"):
        raise ConfigError(
            f"{args.url}: the plugin has no TLS; give the ws:// address of a server on this "
            "computer or in your own network"
        )
    token = os.environ.get("STEMWIRE_TOKEN", "").strip()
    if args.token_file is not None:
        token = read_tokens(args.token_file)[0]
    settings = _settings()
    servers = {server.name: server for server in settings.servers}
    servers[args.name] = NamedServer(args.name, url, token)
    if len(servers) > SERVERS:
        raise ConfigError(f"the plugin's list holds {SERVERS} servers; remove one first")
    replace(settings, servers=tuple(servers.values())).save(config_file())
    print(f"{args.name}: {url}, {'with a' if token else 'without'} token")
    return 0


def _remove(args: argparse.Namespace) -> int:
    settings = _settings()
    left = tuple(server for server in settings.servers if server.name != args.name)
    if left == settings.servers:
        names = ", ".join(server.name for server in left) or "none"
        raise ConfigError(f"no server is called {args.name!r}; there are: {names}")
    replace(settings, servers=left).save(config_file())
    print(f"{args.name}: removed")
    return 0


# --- status


def _status(args: argparse.Namespace) -> int:
    settings_report: dict[str, Any] = {"file": str(config_file()), "error": ""}
    named: tuple[NamedServer, ...] = ()
    try:
        settings = PluginSettings.load(config_file())
    except ConfigError as error:
        settings_report["error"] = str(error)
    else:
        if settings is not None:
            named, program = settings.servers, settings.command[0] if settings.command else ""
            settings_report["command"], settings_report["autostart"] = (
                list(settings.command),
                settings.autostart,
            )
            settings_report["command_works"] = bool(program) and shutil.which(program) is not None
    servers = [_this_computer(), *map(vars, named)]
    with ThreadPoolExecutor(len(servers)) as pool:  # an unreachable server takes a while
        answers = list(pool.map(_probe_server, servers))
    logs = [str(log_folder() / name) for name in ("plugin.log", "server.log")]
    report = {
        "plugin": _plugin_report(),
        "settings": settings_report,
        "servers": answers,
        "logs": logs,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report)
    return 0


def _plugin_report() -> dict[str, Any]:
    bundled = installed = reason = ""
    try:
        bundled = fingerprint(plugin_bundle())
    except ConfigError as error:
        reason = str(error)
    if _installed().is_dir():
        installed = fingerprint(_installed())
    return {
        "path": str(_installed()),
        "installed": installed,
        "carried": bundled,
        "reason": reason,
        "current": bool(installed) and installed == bundled,
    }


def _this_computer() -> dict[str, Any]:
    """Server on this computer, looked for in the same order as the plugin does."""
    name = RESERVED[0]
    if url := os.environ.get("STEMWIRE_PLUGIN_SERVER"):
        token = os.environ.get("STEMWIRE_PLUGIN_TOKEN", "")
        return {"name": name, "url": url, "token": token, "from": "STEMWIRE_PLUGIN_SERVER"}
    file = runtime_folder() / "server.json"
    try:
        local = LocalServer.load(runtime_folder())
    except ConfigError as error:
        return {"name": name, "url": "", "token": "", "from": str(file), "error": str(error)}
    if local is not None and local.alive:
        return {"name": name, "url": local.url, "token": local.token, "from": str(file)}
    why = "the usual port"
    if local is not None:
        why += f", for process {local.pid} of {file} is gone"
    return {"name": name, "url": FALLBACK, "token": "", "from": why}


def _probe_server(server: dict[str, Any]) -> dict[str, Any]:
    """Report on a server and whether it accepts a client; opens and closes a session."""
    report = {key: value for key, value in server.items() if key != "token"}
    report["has_token"] = bool(server["token"])
    report.setdefault("error", "")
    if not report["error"]:
        from stemwire.bridge.client.separator import connect

        try:
            with connect(server["url"], token=server["token"]) as separator:
                report["latency"] = separator.latency
        except StemwireError as error:
            report["error"] = str(error)
    return report | {"answers": not report["error"]}


def _print_report(report: dict[str, Any]) -> None:
    plugin, settings = report["plugin"], report["settings"]
    if not plugin["installed"]:
        state = "not installed; run 'stemwire plugin install'"
    elif plugin["current"]:
        state = f"installed ({plugin['installed']}), the version of this Stemwire"
    elif plugin["carried"]:
        state = (
            f"installed ({plugin['installed']}), not the version of this Stemwire "
            f"({plugin['carried']}); 'stemwire plugin install' replaces it"
        )
    else:
        state = f"installed ({plugin['installed']})"
    print(f"plugin    {plugin['path']}: {state}")
    if plugin["reason"] and not plugin["installed"]:
        print(f"          {plugin['reason']}")
    if settings["error"]:
        print(f"settings  {settings['error']}")
    elif "command" not in settings:
        print(f"settings  {settings['file']}: missing; plugins start no server")
    else:
        starts = "start a server if none answers" if settings["autostart"] else "start no server"
        print(f"settings  {settings['file']}: plugins {starts}")
        works = "" if settings["command_works"] else "; CANNOT BE RUN, install again"
        print(f"          with {' '.join(settings['command'])}{works}")
    for server in report["servers"]:
        where = f"{server['url']}{', with a token' if server['has_token'] else ''}"
        where += f" (from {server['from']})" if "from" in server else ""
        answer = "not usable now"
        if server["answers"]:
            answer = f"answers; {server['latency']} samples of latency at 44.1 kHz with 'standard'"
        print(f"server    {server['name']}: {where}: {answer}")
        if server["error"]:
            print(f"          {server['error']}")
    print(f"logs      {', '.join(report['logs'])}")
