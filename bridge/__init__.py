"""The bridge to other programs: pedalboard, websocket, browser and DAW. Nothing here yet."""
