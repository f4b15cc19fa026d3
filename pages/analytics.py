from fallback.router import get_router
from fallback.ui.analytics import show_analytics

show_analytics(get_router())
