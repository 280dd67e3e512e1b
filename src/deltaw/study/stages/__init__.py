"""What the stages of a study do, a file a kind of stage."""
