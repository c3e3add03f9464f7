"""Maps: elements, their budgets, launch plans as their targets."""
