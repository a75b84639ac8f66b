"""The subcommand `nas push`, which uploads an export to the Hugging Face hub by calling `nas.export.publishing`."""

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
    export: Annotated[Path, typer.Argument(help="Folder of an export, such as runs/my-study/exports/fast.")],
    repository: Annotated[
        str,
        typer.Argument(
            help="Model repository on the Hugging Face hub, as owner/name; it is created if it does not exist."
        ),
    ],
    private: Annotated[
        bool,
        typer.Option(
            "--private", help="Create the repository as private. An existing repository must already be private."
        ),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Upload an export with its model card to the Hugging Face hub.

    This is the only command that uploads anything.
    """
    from nas.export.publishing import push
    from nas.progress import busy

    with busy(f"Uploading {export}"):
        uploaded = push(export, repository, private)
    print(f"pushed: {uploaded.url} ({'private' if uploaded.private else 'public'}, commit {uploaded.commit[:7]})")
    finish(json_, asdict(uploaded))
