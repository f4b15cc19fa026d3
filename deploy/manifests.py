"""Puts providers.yaml as it is shipped into the ConfigMap of the manifests: `python -m deploy.manifests`."""

from __future__ import annotations

from deploy.image import ROOT

__all__ = ["CONFIG", "with_providers"]

CONFIG = ROOT / "deploy" / "kubernetes" / "config.yaml"
_BEGINNING = "  providers.yaml: |\n"


def with_providers(manifest: str, providers: str) -> str:
    """Return `manifest`, whose last entry is the file, with `providers` for that entry."""
    before, beginning, _ = manifest.partition(_BEGINNING)
    lines = (f"    {line}" if line.strip() else line for line in providers.splitlines(keepends=True))
    return before + beginning + "".join(lines)


def main() -> None:
    """Write the manifest anew."""
    providers = (ROOT / "providers.yaml").read_text(encoding="utf-8")
    CONFIG.write_text(with_providers(CONFIG.read_text(encoding="utf-8"), providers), encoding="utf-8")


if __name__ == "__main__":
    main()
