"""One licence has one name, however it was written; what is not known stays as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.storage.artifact import Artifact, Code, Record
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.stages.corpus import summary as corpora
from pipelines.stages.licenses import normalize

SAME = {
    "Apache-2.0": (
        "Apache 2.0", "Apache License, Version 2.0", "apache-2.0", "ASL 2.0", "Apache License 2.0", "Apache License v2",
        "Apache Software License", "License :: OSI Approved :: Apache Software License", "Apache2",
        "https://www.apache.org/licenses/LICENSE-2.0.txt", "Apache License Version 2.0, January 2004",
    ),
    "MIT": ("mit", "MIT License", "The MIT License (MIT)", "Expat", "License :: OSI Approved :: MIT License"),
    "BSD-3-Clause": ("BSD", "BSD License", "New BSD", "BSD 3-Clause", "3-Clause BSD License", "Modified BSD License"),
    "BSD-2-Clause": ("BSD 2-Clause", "Simplified BSD License", "Two-Clause BSD", "FreeBSD"),
    "GPL-3.0-or-later": ("GPLv3+", "GPL v3 or later", "gpl-3.0+", "GNU General Public License v3 or later (GPLv3+)"),
    "GPL-3.0-only": ("GPL-3.0", "GPLv3", "GNU GPL 3", "https://www.gnu.org/licenses/gpl-3.0.en.html"),
    "LGPL-2.1-or-later": ("LGPLv2.1+", "GNU Lesser General Public License v2.1 or later"),
    "AGPL-3.0-only": ("AGPLv3", "GNU Affero General Public License v3"),
    "MPL-2.0": ("Mozilla Public License 2.0 (MPL 2.0)", "MPL 2.0", "mpl-2.0"),
    "PSF-2.0": ("PSF", "Python Software Foundation License"),
    "CC-BY-4.0": (
        "CC BY 4.0", "cc-by-4.0", "Creative Commons Attribution 4.0 International",
        "https://creativecommons.org/licenses/by/4.0/legalcode",
    ),
    "CC-BY": ("Creative Commons Attribution", "CC BY"),
    "CC-BY-NC-4.0": (
        "CC BY-NC 4.0", "http://creativecommons.org/licenses/by-nc/4.0/",
        "Creative Commons Attribution-NonCommercial 4.0",
    ),
    "CC-BY-NC-SA-3.0": ("CC BY-NC-SA 3.0 Unported", "Creative Commons Attribution-NonCommercial-ShareAlike 3.0"),
    "CC-BY-NC-ND-4.0": ("CC BY-NC-ND 4.0", "Creative Commons Attribution-NonCommercial-NoDerivatives 4.0"),
    "CC0-1.0": ("CC0", "CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/",
                "License :: CC0 1.0 Universal (CC0 1.0) Public Domain Dedication"),
    "C-UDA-1.0": ("C-UDA", "c-uda"),
    "ODC-By-1.0": ("odc-by", "https://opendatacommons.org/licenses/by/1-0/"),
    "LicenseRef-Public-Domain": ("Public Domain", "public-domain", "License :: Public Domain"),
    "MIT OR Apache-2.0": ("mit or apache-2.0", "MIT/Apache-2.0", "MIT License OR Apache 2.0"),
    "MIT AND BSD-3-Clause": ("MIT License AND BSD License", "MIT, BSD"),
    "(MIT OR Apache-2.0) AND BSD-3-Clause": ("(mit or Apache 2.0) and New BSD", "(MIT OR Apache-2.0) AND BSD"),
    "GPL-2.0-only WITH Classpath-exception-2.0": ("gpl-2.0-only with classpath-exception-2.0",),
    "unknown": ("", " ", "UNKNOWN", "License :: OSI Approved"),
}  # fmt: skip
STAYS = (
    "proprietary", "see LICENSE file", "openrail", "llama3", "Dual License", "BSD-like", "not MIT", "Creative Commons",
    "MIT License (non-commercial use only)", "CC BY 4.0, photographs excepted", "GPL-3.0 with linking exception",
    "https://example.org/terms", "LicenseRef-mine", "Microsoft Public License",
)  # fmt: skip


@pytest.mark.parametrize(("name", "written"), [(name, each) for name, all_of in SAME.items() for each in all_of])
def test_names_of_one_licence(name: str, written: str) -> None:
    assert normalize(written) == name
    assert normalize(name) == name


@pytest.mark.parametrize("written", STAYS)
def test_what_is_not_known_stays(written: str) -> None:
    assert normalize(written) == written


def test_lists_hold_together() -> None:
    assert normalize(["mit", "Apache 2.0", "MIT License"]) == "MIT AND Apache-2.0"
    assert normalize(["MIT OR BSD", "cc0"]) == "(MIT OR BSD-3-Clause) AND CC0-1.0"
    assert normalize([]) == normalize(None) == normalize([""]) == "unknown"


WORDS = st.sampled_from(
    [*(each for all_of in SAME.values() for each in all_of), *STAYS, "and", "OR", "(", ")", ",", "/"]
)


@given(st.lists(WORDS, max_size=4).map(" ".join) | st.text(max_size=30))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once


def test_a_report_of_before_has_one_name_for_one_licence(tmp_path: Path) -> None:
    counts = {"Apache 2.0": 3, "MIT": 2, "Apache License, Version 2.0": 1, "house rules": 1}
    (tmp_path / "report.json").write_text(json.dumps({"licenses": counts, "flow": {}}))
    record = Record(
        kind="corpus", name="old", fingerprint="0" * 64, revision=1, spec={}, parents={}, scaling={},
        code=Code("", ""), versions={}, started_at="", duration_seconds=0.0, metrics={}, files={},
    )  # fmt: skip
    found = corpora.report(Artifact(record, Location(tmp_path), Store(tmp_path)))
    assert found["licenses"] == {"Apache-2.0": 4, "MIT": 2, "house rules": 1}
