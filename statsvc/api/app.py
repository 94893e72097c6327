"""The application factory."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi_offline import FastAPIOffline

from statsvc import __version__
from statsvc.api import index
from statsvc.api.http import access, problems
from statsvc.api.http.middleware import LOOPBACK_NAMES, MAX_BODY, BodyLimit, Head, HostCheck
from statsvc.api.routes import (
    changed,
    datasets,
    doctor,
    health,
    histogram,
    imports,
    jobs,
    samples,
    sampling,
    versions,
    weights,
)
from statsvc.api.state.service import Service
from statsvc.store.catalog.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from fastapi import FastAPI

    from statsvc.store.home import Home


def build_app(
    home: Home,
    *,
    roots: Sequence[Path | str] = (),
    allowed_hosts: Sequence[str] = LOOPBACK_NAMES,
    any_address: bool = False,
    policy: access.Policy = access.OPEN,
) -> FastAPI:
    """Return the HTTP application over a home; several may serve the same one.

    roots          folders and URLs below which a request may name a source
    allowed_hosts  host names that it answers to
    any_address    whether it answers to every IP address as well
    policy         which requests need a token

    Raises `CatalogError` where the catalog cannot be used.
    """
    catalog = Catalog.open(home.database)
    service = Service(catalog, home.store, roots)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(service.watch.run())
        try:
            yield
        finally:
            await service.feed.close()
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            catalog.close()

    app = FastAPIOffline(
        title="statsvc",
        version=__version__,
        summary="Exact class statistics of segmentation label maps, and the weights that follow.",
        lifespan=lifespan,
        responses=problems.DOCUMENTED,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    problems.install(app)
    for module in (
        weights,
        datasets,
        histogram,
        versions,
        imports,
        samples,
        sampling,
        doctor,
        jobs,
        changed,
        health,
    ):
        app.include_router(module.router)
    index.install(app)
    # The last one added is the first that a request meets.
    app.add_middleware(BodyLimit, largest=MAX_BODY)
    app.add_middleware(access.Access, watch=service.watch, policy=policy)
    app.add_middleware(HostCheck, allowed=allowed_hosts, any_address=any_address)
    app.add_middleware(Head)
    access.document(app, policy)
    return app
