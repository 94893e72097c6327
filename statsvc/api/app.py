"""The application factory."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry, ProcessCollector

from statsvc._version import __version__
from statsvc.api import openapi
from statsvc.api.http import access, problems
from statsvc.api.http.middleware import LOOPBACK_NAMES, BodyLimit, Head, HostCheck, OriginCheck
from statsvc.api.http.observe import Observe, RequestMetrics
from statsvc.api.routes import (
    changed,
    cooccurrence,
    datasets,
    diff,
    doctor,
    groups,
    health,
    heatmap,
    histogram,
    imports,
    jobs,
    metrics,
    page,
    patches,
    samples,
    sampling,
    splits,
    versions,
    weights,
)
from statsvc.api.state.metrics import JobMetrics, StateCollector
from statsvc.api.state.service import Service

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
    access_log: bool = False,
) -> FastAPI:
    """Return the HTTP application over a home directory; several processes can serve the same one.

    roots          folders and URLs below which requests may register sources
    allowed_hosts  accepted host names
    any_address    whether every IP address is accepted as host, too
    policy         which requests require a token
    access_log     whether every request is logged

    Raises `CatalogError` if the catalog cannot be used.
    """
    catalog = home.open_catalog()
    service = Service(catalog, home.store, roots)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(StateCollector(service))
    service.watcher.on_ended = JobMetrics(registry).add

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(service.watcher.run())
        try:
            yield
        finally:
            await service.job_events.close()
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await service.watcher.close()
            catalog.close()

    app = FastAPIOffline(
        title="statsvc",
        version=__version__,
        summary="Exact class statistics of segmentation label maps, and class weights computed from them.",
        lifespan=lifespan,
        openapi_tags=openapi.TAGS,
        generate_unique_id_function=openapi.operation_id,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.policy = policy
    app.state.registry = registry
    problems.install(app)
    modules = (
        weights,
        datasets,
        histogram,
        cooccurrence,
        diff,
        versions,
        imports,
        samples,
        sampling,
        patches,
        heatmap,
        splits,
        groups,
        doctor,
        jobs,
        changed,
        health,
        metrics,
        page,
    )
    for module in modules:
        app.include_router(module.router)
    page.install(app)
    # Requests pass the middleware in reverse order.
    app.add_middleware(weights.Direct)
    app.add_middleware(BodyLimit)
    app.add_middleware(OriginCheck)
    app.add_middleware(
        access.Access,
        tokens=lambda: service.watcher.snapshot.tokens,
        fresh=service.watcher.fresh,
        wrong_schema=lambda: service.watcher.wrong_schema,
        policy=policy,
    )
    app.add_middleware(HostCheck, allowed=allowed_hosts, any_address=any_address)
    app.add_middleware(
        Observe,
        access_log=access_log,
        metrics=RequestMetrics(
            registry,
            (
                (method, route.path, route.endpoint)
                for module in modules
                for route in module.router.routes
                if isinstance(route, APIRoute)
                for method in route.methods or ()
            ),
        ),
    )
    app.add_middleware(Head)
    openapi.install(app, policy)
    return app
