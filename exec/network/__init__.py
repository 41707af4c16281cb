"""Networks as data: modules, the graph they form, its shapes, and the files that describe one."""
