"""Options of the commands that stream an input to a bridge: `push` and `import`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pusher.changes import CHANGE_FORMATS
from pusher.cli.connection import door_options, option, refresher_of, with_options
from pusher.cli.values import CONCURRENCY, DURATION, REJECTED_MAX, SIZE, read_secret
from pusher.envelopes import FORMATS
from pusher.model import OBJECT_TYPES

if TYPE_CHECKING:
    from pusher.config import Settings
    from pusher.sources import Formats, KafkaSource

__all__ = [
    "batch_options",
    "checkpoint_options",
    "choice_options",
    "formats_of",
    "guard_options",
    "input_options",
    "kafka_options",
    "monitor_options",
    "output_options",
    "pace_options",
    "repair_options",
    "report_options",
    "settings_of",
    "spool_options",
    "topic_of",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def input_options(command: Command) -> Command:
    """What the lines of the input do not say, and how large they may be."""
    return with_options(
        command,
        option("--store", "default_store", metavar="ID", help="Store of lines without storeId."),
        option(
            "--type",
            "default_type",
            type=click.Choice(OBJECT_TYPES),
            help="Type of lines without objectType.",
        ),
        option(
            "--format",
            "formats",
            multiple=True,
            type=click.Choice(["auto", *FORMATS, *CHANGE_FORMATS]),
            default=["auto"],
            help="What the input is written as, and what is in the values; give it twice to name"
            " both. auto looks at the first record.",
        ),
        option(
            "--map",
            "map_file",
            metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            help="TOML: which columns of which table or topic are the id, the properties and so"
            " on, for values that are rows.",
        ),
        option("--max-line", type=SIZE, default="32MiB", help="Longer lines are rejected unread."),
    )


def batch_options(command: Command) -> Command:
    """How large requests are, and how many at a time."""
    return with_options(
        command,
        option("--batch-size", type=int, default=200, metavar="N", help="Messages in a request."),
        option("--batch-bytes", type=SIZE, default="4MiB", help="Largest request body."),
        option(
            "--concurrency",
            type=CONCURRENCY,
            metavar="N|auto",
            default="auto",
            help="Requests in flight at most; auto finds the best number by itself, up to 256.",
        ),
        option("--rate", type=float, metavar="R", help="Requests a second at most."),
    )


def pace_options(command: Command) -> Command:
    """How large requests are, how many, and for how long they are tried."""
    return with_options(
        command,
        batch_options,
        option(
            "--drain-timeout",
            type=DURATION,
            default="30s",
            help="After Ctrl-C: how long to go on delivering what was read.",
        ),
        option(
            "--max-attempts",
            type=int,
            default=8,
            metavar="N",
            help="So many failures of one request, while others succeed, and it is taken apart;"
            " a message that goes on failing is rejected.",
        ),
        option(
            "--give-up-after",
            type=DURATION,
            default="15m",
            help="Stop, to be resumed, when nothing has succeeded for so long.",
        ),
        option(
            "--memory",
            "memory_bytes",
            type=SIZE,
            default="64MiB",
            help="What is held at most of messages under way; then reading waits.",
        ),
        option(
            "--preflight/--no-preflight",
            default=True,
            help="Prove the address and the credentials before the first message.",
        ),
    )


def choice_options(command: Command) -> Command:
    """What may be sent."""
    return with_options(
        command,
        option("--only-store", "only_stores", multiple=True, metavar="ID", help="Send no others."),
        option(
            "--only-type",
            "only_types",
            multiple=True,
            type=click.Choice(OBJECT_TYPES),
            help="Send no others.",
        ),
        option("--limit", type=int, metavar="N", help="Send the first N messages only."),
    )


def guard_options(command: Command) -> Command:
    """What may be sent, and when a run has gone wrong."""
    return with_options(
        command,
        choice_options,
        option(
            "--max-rejected",
            type=REJECTED_MAX,
            help="Stop when more are rejected. A share counts from 1,000 messages on.",
        ),
        option(
            "--expect",
            type=int,
            metavar="N",
            help="The run fails when the input ends with another number of messages: a producer"
            " that died looks like one that is done.",
        ),
        option(
            "--dry-run",
            is_flag=True,
            help="Everything but the requests; no file is written. See also `pusher plan`.",
        ),
    )


def checkpoint_options(command: Command) -> Command:
    """How a later run goes on from this one."""
    return with_options(
        command,
        option(
            "--checkpoint",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Go on from this file where it exists, and keep in it how far the run is. The"
            " same input has to be given again, which is checked.",
        ),
        option(
            "--max-lag",
            "max_lag_bytes",
            type=SIZE,
            default="1GiB",
            help="With a checkpoint: read at most so far ahead of the oldest message that is not"
            " settled, as a later run reads that again.",
        ),
    )


def repair_options(command: Command) -> Command:
    """How what the bridge could not process is repaired."""
    return with_options(
        command,
        option(
            "--repair",
            type=int,
            metavar="N",
            help="Afterwards list the bridge's sync errors and send again what may succeed now, in"
            " N rounds at most; what is left becomes dead letters.  [default: 3 with --phases]",
        ),
    )


def spool_options(command: Command) -> Command:
    """Where a pipe is kept that has to be read again."""
    return with_options(
        command,
        option(
            "--spool-dir",
            type=click.Path(file_okay=False, path_type=Path),
            help="Pipes: where they are kept, compressed, to be read again. It has no name there,"
            " and goes away with the run.  [default: TMPDIR, or /var/tmp]",
        ),
        option(
            "--spool-max",
            "spool_max_bytes",
            type=SIZE,
            default="16GiB",
            help="Pipes: the run stops when a spool takes more on the disk.",
        ),
        option(
            "--keep-spool",
            is_flag=True,
            help="Pipes: spool without --phases, too, and leave pusher-RUN.ndjson.zst in"
            " --spool-dir, for pusher repair.",
        ),
    )


def kafka_options(command: Command) -> Command:
    """How live topics are read."""
    return with_options(
        command,
        option(
            "--until",
            metavar="end|TIME",
            help="Topics: end with what is there at the start, or with what is older than an ISO"
            " 8601 time. The run waits until the whole group is so far.  [default: never]",
        ),
        option(
            "--kafka-config",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="File with librdkafka's properties, as SASL and TLS need them: name=value, one a"
            " line.",
        ),
        option(
            "--dead-letters-topic",
            metavar="ADDRESS",
            help="Write rejected messages to a topic, kafka://HOST:PORT/TOPIC, instead of a file.",
        ),
        option(
            "--group-protocol",
            type=click.Choice(["classic", "consumer"]),
            default="classic",
            help="consumer: the group protocol of KIP-848, for brokers from 4.0 on.",
        ),
        option(
            "--group-instance",
            metavar="NAME",
            help="This member's fixed name (static membership): a restart within the session"
            " timeout moves no partition.",
        ),
    )


def monitor_options(command: Command) -> Command:
    """How others watch the run."""
    return with_options(
        command,
        option(
            "--metrics-port",
            type=click.IntRange(0, 65535),
            metavar="P",
            help="Serve /metrics (Prometheus), /healthz and /readyz there; 0 picks a free port.",
        ),
        option(
            "--metrics-host",
            metavar="HOST",
            default="127.0.0.1",
            help="Where; anybody who reaches it can read the metrics.",
        ),
    )


def output_options(command: Command) -> Command:
    """Where rejected messages, the report and the log go."""
    return with_options(
        command,
        option(
            "--dead-letters",
            type=click.Path(dir_okay=False, path_type=Path),
            default="pusher.dead.ndjson",
            help="Where rejected messages go, each with its reason. Appended to.",
        ),
        report_options,
    )


def report_options(command: Command) -> Command:
    """Where the report and the log go."""
    return with_options(
        command,
        option(
            "--report",
            metavar="FILE",
            type=click.Path(),
            help="Write the JSON report there; - is stdout.",
        ),
        option(
            "--html",
            metavar="FILE",
            type=click.Path(),
            help="Write the report for people there: one page with plots, that needs no network.",
        ),
        option(
            "-q",
            "--quiet",
            is_flag=True,
            help="On stderr only errors, and how a run that failed has ended.",
        ),
        option("-v", "--verbose", is_flag=True, help="Log each retry and split as well."),
        option(
            "--log-format", type=click.Choice(["text", "json"]), default="text", help="On stderr."
        ),
    )


def formats_of(names: tuple[str, ...], map_file: Path | None, *, shows: bool) -> Formats:
    """What --format and --map say.

    Raises:
        UsageError: they cannot be used.
    """
    from pusher.errors import UsageError  # noqa: PLC0415 - loaded when a run begins
    from pusher.mapping import Mapping  # noqa: PLC0415
    from pusher.sources import Formats  # noqa: PLC0415

    around = [name for name in FORMATS if name in names]
    within = [name for name in CHANGE_FORMATS if name in names]
    if len(around) > 1 or len(within) > 1:
        wrong = around if len(around) > 1 else within
        raise UsageError(f"--format: {' and '.join(wrong)} exclude each other")
    mapping = None
    if map_file is not None:
        try:
            mapping = Mapping.parse(map_file.read_text("utf-8"), str(map_file))
        except OSError as error:
            raise UsageError(f"--map: {map_file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"--map: {map_file}: not a text file") from error
    return Formats(
        file_format=around[0] if around else None,
        change=within[0] if within else None,
        mapping=mapping,
        shows=shows and mapping is not None,
    )


_OF_TOPICS = (*("until", "kafka_config", "group_protocol", "group_instance", "dead_letters_topic"),)
_SECONDS = (
    "linger",
    "max_age",
    "drain_timeout",
    "confirm_timeout",
    "confirm_window",
    "give_up_after",
)
_OF_THE_DOOR = ("timeout", "connect_timeout", "ca_file", "client_cert", "client_key", "headers")


def settings_of(values: dict[str, Any]) -> Settings:
    """The settings that options stand for.

    Raises:
        UsageError: a value is out of its range.
        click.UsageError: a secret cannot be read.
    """
    from pusher.config import Settings  # noqa: PLC0415 - loaded when a run begins
    from pusher.sources import TopicAddress, read_properties  # noqa: PLC0415

    door = door_options(values)
    letters_topic = values.get("dead_letters_topic")
    renamed = {
        f"{name}_s" if name in _SECONDS else name: one
        for name, one in values.items()
        if name not in _OF_THE_DOOR and name not in _OF_TOPICS
    }
    formats = formats_of(
        renamed.pop("formats"), renamed.pop("map_file"), shows=renamed.get("dry_run", False)
    )
    return Settings(
        formats=formats,
        refresher=refresher_of(renamed),
        token=read_secret(renamed.pop("token"), renamed.pop("token_file"), "--token"),
        api_key=read_secret(renamed.pop("api_key"), renamed.pop("api_key_file"), "--api-key"),
        keep_order=renamed.pop("order", "key") == "key",
        max_line_bytes=renamed.pop("max_line"),
        only_stores=frozenset(renamed.pop("only_stores", ())),
        only_types=frozenset(renamed.pop("only_types", ())),
        dead_letters_topic=TopicAddress.parse(letters_topic) if letters_topic else None,
        kafka_properties=read_properties(values.get("kafka_config")),
        **door,
        **renamed,
    )


def topic_of(
    source: tuple[str, ...], values: dict[str, Any], settings: Settings
) -> KafkaSource | None:
    """The live topics that are named as the source; None where files or pipes are.

    Raises:
        UsageError: they cannot be read, or an option is given that only topics take.
    """
    from pusher.errors import UsageError  # noqa: PLC0415 - loaded when a run begins
    from pusher.sources import (  # noqa: PLC0415
        SCHEME,
        KafkaSource,
        Plan,
        TopicAddress,
        Until,
    )

    if not any(one.startswith(SCHEME) for one in source):
        for name in ("until", "group_instance"):
            if values[name] is not None:
                raise UsageError(f"--{name.replace('_', '-')} is for topics: kafka://...")
        return None
    if len(source) > 1:
        raise UsageError("kafka://... is read alone; name several topics as kafka://HOST/A,B")
    if settings.formats.file_format is not None:
        raise UsageError(f"--format {settings.formats.file_format} is for files and pipes")
    plan = Plan(
        properties=settings.kafka_properties,
        group_protocol=values["group_protocol"],
        group_instance=values["group_instance"],
        until=None if values["until"] is None else Until.parse(values["until"]),
        drain_timeout_s=settings.drain_timeout_s,
        max_line_bytes=settings.max_line_bytes,
        formats=settings.formats,
        joins=not settings.dry_run,
    )
    return KafkaSource(TopicAddress.parse(source[0]), plan)
