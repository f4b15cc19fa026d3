"""The dashboard and the HTTP API in one ASGI application: `streamlit run streamlit_app.py`, or see main.py."""

from pathlib import Path

import streamlit as st

from fallback.api import Program
from fallback.api.connection import guard_streamlit

HERE = Path(__file__).resolve().parent

program = Program(
    HERE / "providers.yaml",
    warm=("pandas", "altair", "fallback.ui.chat", "fallback.ui.providers", "fallback.ui.analytics"),
)

guard_streamlit()

# Streamlit looks for this very call in the syntax tree: a function that returns an App would not be found.
app = st.App(
    HERE / "fallback/ui/frame.py",
    routes=program.routes(),
    middleware=program.dashboard_middleware(),
    lifespan=program.lifespan,
)
