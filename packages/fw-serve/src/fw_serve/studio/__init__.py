"""The studio: the web page of the service. `static` is built from apps/studio (npm run build) and committed."""
