"""Modules of script import each other by the paths that pages give them."""

import re

from vespid.web.assets import asset_path, assets


def test_a_module_that_others_import_has_one_path() -> None:
    imported = {
        found.decode()
        for asset in assets().values()
        for found in re.findall(rb'^import [^;]* from "([^"]*)"', asset.plain, re.MULTILINE)
    }
    assert asset_path("live.js") in imported
    assert imported <= {asset_path(name) for name in assets()}
