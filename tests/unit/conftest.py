from hypothesis import settings

# The suite runs beside other work: how long one example takes says nothing about the code.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
