"""Folders on every kind of file system that a run can be written to."""

from tests.services.s3 import bucket, folder_url, s3_folder, s3_server

__all__ = ["bucket", "folder_url", "s3_folder", "s3_server"]
