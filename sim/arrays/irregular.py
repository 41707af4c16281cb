"""What the array engine cannot tell, and says so."""


class IrregularError(Exception):
    """Ranks do not all do the same, or flows meet: events tell what arrays cannot. It says where."""
