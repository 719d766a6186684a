"""Long worlds: segment after segment along one camera path, aligned and merged into one world."""
