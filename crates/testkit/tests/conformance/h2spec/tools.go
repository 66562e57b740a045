//go:build tools

// Package tools names the tool, so that its version and its dependencies' stand in go.mod.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
