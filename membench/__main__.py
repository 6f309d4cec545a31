"""Where the program begins, as ``membench`` and as ``python -m membench``."""

from membench.processes.working_folder import search_working_folder_last

# python -m and PYTHONPATH=. put it first, where the user's files would hide modules that we import.
search_working_folder_last()

from membench.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
