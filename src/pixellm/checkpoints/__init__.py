"""How a model is stored: conversion, adapters, assembly, presets."""
