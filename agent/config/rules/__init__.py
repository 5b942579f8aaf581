"""What must hold in a configuration, one file per kind of table; each rule yields its place and one line."""
