"""What every number is: declared once, known to tables, gates, pages, charts and documents."""
