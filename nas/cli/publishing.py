"""The verb that uploads an export."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.app import JsonOption, app, examples, finish


@app.command(
    epilog=examples(
        "nas push runs/my-study/exports/fast me/my-bert-fast",
        "nas push runs/my-study/exports/fast my-team/reviews --private",
    )
)
def push(
    export: Annotated[Path, typer.Argument(help="The folder of an export, such as runs/my-study/exports/fast.")],
    repository: Annotated[str, typer.Argument(help="A model repository of the Hugging Face hub, as owner/name.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private; one that exists must be.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Upload an export with its model card to the Hugging Face hub; nothing else uploads anything."""
    from nas.export.publishing import push
    from nas.progress import busy

    with busy(f"Uploading {export}"):
        found = push(export, repository, private)
    print(f"pushed: {found.url} ({'private' if found.private else 'public'}, commit {found.commit[:7]})")
    finish(json_, asdict(found))
