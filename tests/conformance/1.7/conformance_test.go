package conformance

import (
	"embed"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

//go:embed manifests
var manifests embed.FS

func TestConformance(t *testing.T) { conformance.RunConformance(t) }

// What the suite asks of Gateways alone, asked of Services. No part of the official report.
var meshTests []suite.ConformanceTest

func TestMesh(t *testing.T) {
	options := conformance.DefaultOptions(t)
	options.ManifestFS = append([]fs.FS{manifests}, options.ManifestFS...)
	options.ReportOutputPath = ""
	options.CleanupBaseResources = true
	s, err := suite.NewConformanceTestSuite(options)
	require.NoError(t, err)
	s.Setup(t, meshTests)
	require.NoError(t, s.Run(t, meshTests))
}
