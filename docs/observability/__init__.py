"""What a running application is watched with; what writes the pages and files of it from the library's own tables."""
