"""Many drives, scored by as many workers as there are: one report a drive, merged in the end."""
