"""Where ticks come from: synthetic, replay, WebSocket; and the books that are kept of them."""
