"""Reports for people: one offline HTML file each."""
