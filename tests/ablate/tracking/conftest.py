"""An MLflow store, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.tracking import mlflow as room


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make a store: once."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        room.connected(root)
    assert [path.name for path in root.glob("*.db")] == ["mlflow.db"], "made beside, then renamed"
    return root / "mlflow.db"
