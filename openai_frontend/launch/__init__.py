"""Starting and stopping: flags, checkpoint folder, tritonserver's life, the HTTP listeners."""
