"""The page that an endpoint serves itself: a chat in the browser, of plain files without a build step."""
