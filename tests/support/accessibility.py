"""Runs axe on a page in a browser."""

from typing import Any

SERIOUS = {"serious", "critical"}


def serious(page: Any, options: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Serious problems that axe finds: rule and examples."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"], **options})
    return [
        (violation["id"], [node["html"][:160] for node in violation["nodes"][:3]])
        for violation in found.response["violations"]
        if violation["impact"] in SERIOUS
    ]
