package direct

// ContentPath is contentPath.
var ContentPath = contentPath
