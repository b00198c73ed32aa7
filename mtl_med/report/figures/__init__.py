"""Pictures of the report, as bytes: nothing here knows a page."""
