"""One module a format (`mpipipe.store.export.exporting.Format`); a new one is a new file here."""
