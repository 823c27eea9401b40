"""From encoded records to requests that the server has answered."""
