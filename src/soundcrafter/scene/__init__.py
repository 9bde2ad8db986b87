"""A scene: the events of a prompt on a timeline, each its own sound, mixed into one."""
