"""Charts: one look for all figures. `style` names and colours, `primitives` small charts, `figure` a whole one."""
