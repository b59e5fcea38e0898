"""The documentation as a site: pages of docs/, a reference made from the code, every link checked."""
