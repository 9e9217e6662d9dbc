"""`mlx_mm serve`: models and an index over HTTP, for apps, scripts and clients of OpenAI's API."""

import argparse
import contextlib
import ipaddress
import os
import re
import socket
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.checkpoint.bundled import ANSWERS, EACH, PICTURES
from mlx_mm.cli.command import Command
from mlx_mm.cli.indexes import duration, shown_path
from mlx_mm.cli.notes import note
from mlx_mm.cli.output import flush, say, say_json
from mlx_mm.cli.ranks import Ranks, end, heedless, joined
from mlx_mm.cli.viewer import check_display, has_display, reveal, show_address
from mlx_mm.errors import InputError, OutputError, RanksError, reason

if TYPE_CHECKING:
    from mlx_mm.search.index import Index
    from mlx_mm.server.engine import Limits
    from mlx_mm.server.security import Access

PORT = 8765
SECONDS_TO_ANSWER = 5.0  # those who wait, that there will be no answer
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_YOURS = ""  # --index without a path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `serve`."""
    bundled = ", ".join(EACH)
    parser.add_argument(
        "-m",
        "--model",
        action="append",
        default=[],
        help=f"folder, bundled name or hub id, read on first use; repeatable (default: {bundled})",
    )
    parser.add_argument(
        "--index",
        nargs="?",
        const=_YOURS,
        metavar="PATH",
        help="serve an index too; without PATH yours (default: one of the bundled files, where no model is named)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="another than this machine needs a key (%(default)s)")
    parser.add_argument("--port", type=_port, default=PORT, help="0 for one that is free (default: %(default)s)")
    parser.add_argument("--uds", type=Path, metavar="PATH", help="listen on a Unix socket and on no port")
    parser.add_argument("--api-key", metavar="KEY", help="that each request must bring; others see it in ps")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="the same, from a file's first line")
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="a web page that may ask; repeatable"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="another name of this server; repeatable"
    )
    parser.add_argument(
        "--allow-urls", nargs="*", metavar="HOST", help="fetch pictures from public addresses, or these hosts alone"
    )
    parser.add_argument("--max-running", type=_count, default=8, metavar="N", help="answers at once (%(default)s)")
    parser.add_argument("--max-waiting", type=_count, default=64, metavar="N", help="before them (%(default)s)")
    parser.add_argument("--max-body", type=size, default=64 << 20, metavar="SIZE", help="of a request (64 MiB)")
    parser.add_argument("--kv-memory", type=size, metavar="SIZE", help="for prompts and answers, such as 4GB")
    parser.add_argument("--idle-unload", type=duration, metavar="TIME", help="give back unused weights then, as 10m")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--no-page", action="store_true", help="serve no page")
    parser.add_argument("--ready-json", action="store_true", help="say in a line of JSON where it listens")
    parser.add_argument("--parent-pid", type=_count, metavar="PID", help="end with that process")
    parser.set_defaults(refuse=parser.error)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal, or the end of the parent or of the engine. Of several ranks rank 0 does; the others have a
    part of the model that answers, and end with it."""
    with joined() as ranks:
        if ranks is None or ranks.group.rank() == 0:
            return _serve(args, ranks)
        from mlx_mm.server.engine import follow_engine

        with heedless():
            follow_engine(args.model or list(EACH), ranks.group, ranks.alarm.sleep)
        return 0


def _serve(args: argparse.Namespace, ranks: Ranks | None) -> int:
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"serve needs {' and '.join(missing)}, which is not there; expected it. pip install 'mlx_mm[serve]'."
        )
    from mlx_mm.generation.following import dismiss
    from mlx_mm.server.app import make_app
    from mlx_mm.server.engine import Engine
    from mlx_mm.server.index_routes import IndexRoutes
    from mlx_mm.server.media import Media
    from mlx_mm.server.page_data import PageData
    from mlx_mm.server.page_routes import Page
    from mlx_mm.server.running import Life, tcp_socket, unix_socket

    if args.open:
        if args.uds or args.no_page:
            args.refuse("--open shows the page of a server that listens on a port; expected no --uds and no --no-page")
        check_display()
    access = _access(args)
    life = Life(args.parent_pid)
    with contextlib.ExitStack() as stack:
        bound = stack.enter_context(
            unix_socket(args.uds.expanduser()) if args.uds else tcp_socket(args.host, args.port)
        )
        index = _index(args)
        shown = None if index is None else IndexRoutes(stack.enter_context(index))
        # Who asks from another machine would see nothing of it.
        on_desktop = has_display() and _is_loopback(args.host.strip("[]")) and not args.uds
        page = Page(access, reveals=on_desktop)
        routes = [*(shown.routes() if shown else ()), *(() if args.no_page else page.routes())]
        if index is not None and shown is not None and not args.no_page:
            routes += PageData(index, shown, reveal if on_desktop else None).routes()
        losing, served = threading.Lock(), threading.Event()

        def lose(error: RanksError) -> None:
            """In place of the thread that computes, which may wait for another rank for ever."""
            with losing:  # for good: the engine may find out at the same time
                engine.give_up(error)
                life.die()
                served.wait(SECONDS_TO_ANSWER)
                end(error)

        def die(error: BaseException) -> None:
            if isinstance(error, RanksError):
                lose(error)
            life.die()

        engine = Engine(args.model or list(EACH), _limits(args), die)
        if ranks is not None:
            stack.callback(dismiss, engine.lead(ranks.group, ranks.alarm.wake))
            ranks.on_lost = lose
        stack.callback(engine.close)
        engine.start()
        urls = () if args.allow_urls is None else tuple(args.allow_urls) or ("*",)
        media = Media(urls=urls, items=None if shown is None else shown.file_of)
        app = make_app(engine, access, media, routes)
        names = [served.name for served in engine.models()]

        def ready() -> None:
            address = _tell(args, bound, access, names)
            if args.open:  # the browser may take its time, and the server is its own business
                threading.Thread(
                    target=_show_page, args=(f"{address}/open?ticket={page.ticket()}",), daemon=True
                ).start()

        try:
            return life.run(app, bound, ready, shown.changes.end if shown else lambda: None)
        finally:
            served.set()


def size(text: str) -> int:
    """Bytes of "4GB", "512M" or "1000"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    count = float(found[1]) * _UNITS[found[2]] if found else 0
    if found and found[3]:
        count *= (1024 / 1000) ** ("", "k", "m", "g", "t").index(found[2])
    if not 1 <= count < 1 << 60:
        raise argparse.ArgumentTypeError(f"expected a size such as 4GB or 512MB, found {text!r}")
    return int(count)


def _access(args: argparse.Namespace) -> "Access":
    from mlx_mm.server.security import Access

    key = _key(args)
    host = args.host.strip("[]")
    if not args.uds and not _is_loopback(host) and key is None:
        args.refuse(
            f"--host {args.host} lets other machines ask, and there is no key; expected --api-key-file beside it"
        )
    name = f"[{host}]" if ":" in host else host
    return Access(hosts=(name, *args.allow_host), origins=tuple(args.allow_origin), key=key, max_body=args.max_body)


def _key(args: argparse.Namespace) -> str | None:
    if args.api_key is not None and args.api_key_file is not None:
        raise InputError("--api-key and --api-key-file stand together; expected one of them. Leave one out.")
    key: str | None = args.api_key
    if args.api_key_file is not None:
        try:
            lines = args.api_key_file.expanduser().read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise InputError(
                f"--api-key-file {args.api_key_file} cannot be read ({reason(error)}); expected a key in its first "
                "line. Change it."
            ) from error
        key = lines[0].strip() if lines else ""
    if key is not None and not re.fullmatch(r"[!-~]{8,}", key):
        raise InputError("The key is too short or has odd characters; expected 8 or more of ASCII. Choose another.")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _limits(args: argparse.Namespace) -> "Limits":
    from mlx_mm.server.engine import Limits

    return Limits(
        max_running=args.max_running,
        max_waiting=args.max_waiting,
        kv_memory=args.kv_memory,
        idle_unload=args.idle_unload,
    )


def _index(args: argparse.Namespace) -> "Index | None":
    """That which was asked for; of the bundled pictures and sounds where nothing was."""
    from mlx_mm.search.index import Index
    from mlx_mm.search.place import default_index

    if args.index is not None:
        index = Index(default_index() if args.index == _YOURS else Path(args.index).expanduser())
        with contextlib.ExitStack() as failed:
            failed.callback(index.close)
            index.stats()  # an error now where there is none
            failed.pop_all()
        return index
    if args.model:
        return None
    from mlx_mm.cli.bundled_index import bundled_index

    return bundled_index()


def _tell(args: argparse.Namespace, bound: socket.socket, access: "Access", names: list[str]) -> str:
    """Where it listens, which is returned; the token opens /api/."""
    if args.uds:
        where: dict[str, object] = {"uds": str(args.uds.expanduser().absolute()), "url": "http://localhost"}
    else:
        host, port = bound.getsockname()[:2]
        where = {"url": f"http://{f'[{host}]' if ':' in host else host}:{port}", "port": port}
    if args.ready_json or args.json:
        say_json({"ready": True, **where, "pid": os.getpid(), "models": names, "token": access.token}, indent=None)
    else:
        at = shown_path(args.uds) if args.uds else where["url"]
        say(f"listening on {at} | models: {', '.join(names)}\nclients of OpenAI's API: base_url {where['url']}/v1")
        if not (args.uds or args.no_page):
            note(f"the page: {where['url']}/open?token={access.token}")
        note(f"/api/ takes the session's token: {access.token}; Ctrl-C ends the server")
    flush()
    return str(where["url"])


def _show_page(address: str) -> None:
    try:
        show_address(address)
    except OutputError as error:
        note(str(error))


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"expected a port, 0 to 65535, found {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


COMMAND = Command(
    "serve models and an index over HTTP, as OpenAI's API and others",
    add_arguments,
    run,
    (
        "mlx_mm serve --open",
        f"mlx_mm serve -m {PICTURES.advised} -m {ANSWERS.advised} --index --idle-unload 10m",
        "mlx_mm serve --port 0 --ready-json --parent-pid 4242",
        "mlx_mm serve --host 0.0.0.0 --allow-host mac.local --api-key-file key.txt",
        "mlx_mm serve --uds ~/mlx_mm.sock",
    ),
)
