"""The forges we serve jobs for; blocking; the only home of PyGithub and python-gitlab."""
